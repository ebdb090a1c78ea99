"""The aggregator leaves one silo out of the sum and says that it was silent. A limit: nobody can prove that it wasn't.

What it gets is what a silo that drops out leaves: a sum of the others, never of fewer than the plan's minimum, and no
second sum with the victim in it. A victim that was not asked, or whose answer was taken, refuses and has that on its
ledger; it cannot keep the others from opening what the plan allows them.
"""

from cloister.wire import RoundPhase

from tests.attacks.lying import Version, everybody

REST = ("east", "north")


def opened_without_west(world, *versions):
    for version in versions:
        world.tell(everybody(version, RoundPhase.FINGERPRINTING))
    world.tell(everybody(versions[-1], RoundPhase.COMMITTED))
    world.tell(everybody(versions[-1], RoundPhase.RELEASING))
    return world.states()


def test_left_out_of_the_first_commit_it_refuses_and_the_others_open(collected):
    assert opened_without_west(collected, Version(collected, REST)) == {
        "east": "Applied", "north": "Applied", "west": "Refused",
    }  # fmt: skip
    assert "own update is not in it" in collected.why("west")


def test_left_out_after_it_answered_it_refuses_and_the_others_open(collected):
    states = opened_without_west(collected, Version(collected), Version(collected, REST, attempt=2))
    assert states == {"east": "Applied", "north": "Applied", "west": "Refused"}


def test_said_to_have_missed_a_commit_it_cannot_know_better_and_goes_on_with_the_others(collected):
    states = opened_without_west(collected, Version(collected, REST, attempt=2))
    assert states == dict.fromkeys(("east", "north", "west"), "Applied")


def test_a_sum_of_fewer_than_the_minimum_is_refused_by_all(collected):
    states = opened_without_west(collected, Version(collected, ("west",), attempt=2))
    assert states == dict.fromkeys(("east", "north", "west"), "Refused")
    assert "sums 1 updates; the plan's minimum is 2" in collected.why("west")
