"""Two participant lists for one round number: the aggregator tells silos different things about who takes part.

It wants two cohorts, or a silo that trains among others than it thinks. A silo signs one list for a round number, ever,
and trains only when everybody on that list has signed it; two lists, each of more than half, share a silo.
"""

import dataclasses
from collections.abc import Callable

from cloister import wire
from cloister.wire import RoundPhase

from privacy.envelope import UpdateHeader
from privacy.plan import RoundContext
from privacy.statement import Signed, read
from privacy.transcript import Consent, Fingerprint, RoundJoin
from tests.attacks.lying import NAMES, LyingWorld, Version, everybody

LISTS = {"east": ("east", "north"), "north": ("east", "north"), "west": ("north", "west")}


def taken(*_):
    """The attacker takes any join."""
    return wire.RoundJoinTaken().encode()


def show_lists(world: LyingWorld, phase: RoundPhase, joins_of: Callable[[str], tuple[str, ...]]) -> None:
    """Each silo its list, with the joins that these silos signed, whatever they are to."""

    def shown(silo, view):
        listed = [join for name in joins_of(silo) for join in world.said(name, RoundJoin)]
        return view.model_copy(update={"phase": phase, "participants": LISTS[silo], "joins": tuple(listed)})

    world.lies["JoinRound"] = taken
    world.show_round(shown)


def test_a_silo_on_another_list_than_its_peers_trains_nothing(world):
    show_lists(world, RoundPhase.ANNOUNCED, lambda _silo: ())
    world.run(until=lambda: all(world.said(name, RoundJoin) for name in NAMES))
    for joins_of, why in (
        (lambda silo: LISTS[silo], "in another context (replayed, or a different view of the round)"),
        (lambda silo: (silo,), "goes on with joins of west; its participants are north, west"),
    ):
        show_lists(world, RoundPhase.COLLECTING, joins_of)
        world.turn()
        assert why in world.complaints["west"].why
        assert world.states()["west"] == "Joined"
    assert [len(world.said(name, RoundJoin)) for name in NAMES] == [1, 1, 1]
    assert not world.said("west", UpdateHeader)


def test_a_second_list_for_a_round_that_was_joined_is_not_signed(collected):
    collected.lies["JoinRound"] = collected.lies["SubmitUpdate"] = taken
    before, second = everything_said(collected), ("east", "north")
    for phase in (RoundPhase.ANNOUNCED, RoundPhase.COLLECTING):
        collected.show_round(
            lambda _silo, view, phase=phase: view.model_copy(update={"phase": phase, "participants": second})
        )
        collected.turn()
    assert everything_said(collected) == before


def everything_said(world: LyingWorld) -> list[list[Signed]]:
    return [world.said(name, kind) for name in NAMES for kind in (RoundJoin, UpdateHeader, Fingerprint, Consent)]


def test_a_commit_to_another_list_is_not_consented_to(collected):
    """The updates are those of the list that all signed; the commit says that they were for a smaller one."""
    (header, _) = collected.updates()["east"]
    found = collected.runner.live(collected.job).ctx
    assert found.digest().hex() == read(header, UpdateHeader).ctx
    smaller: RoundContext = dataclasses.replace(found, participants=("east", "north"))
    version = Version(collected, ("east", "north"), ctx=smaller)
    for phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED):
        collected.tell(everybody(version, phase))
    assert collected.states() == dict.fromkeys(NAMES, "Refused")
    assert [collected.said(name, Consent) for name in NAMES] == [[], [], []]
