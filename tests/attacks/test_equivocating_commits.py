"""Two commits with one attempt number: the aggregator shows different silos different sums of one round.

It wants each half of the cohort to consent to its own sum. Every member must first sign a fingerprint under the very
commit that is to be opened, and signs under no second one with the same number: so no version ever has them all, and
whoever is shown both has two statements with the aggregator's signature that contradict each other.
"""

from cloister.wire import RoundPhase

from privacy.statement import read
from privacy.transcript import Consent, Fingerprint, RoundCommit
from tests.attacks.lying import NAMES, Version, everybody, hear

DOUBLED = ("east", "north", "west", "west")


def two_faced(world, first, second):
    """East and west hear of one commit, north of the other; then each of the other one."""
    world.tell(hear(RoundPhase.FINGERPRINTING, east=first, north=second, west=first))
    world.tell(hear(RoundPhase.COMMITTED, east=first, north=second, west=first))
    world.tell(hear(RoundPhase.FINGERPRINTING, east=second, north=first, west=second))
    world.tell(hear(RoundPhase.COMMITTED, east=second, north=first, west=second))


def test_two_sums_under_one_number_get_no_consent(collected):
    honest, doubled = Version(collected), Version(collected, summed=DOUBLED)
    assert read(honest.commit, RoundCommit).attempt == read(doubled.commit, RoundCommit).attempt
    two_faced(collected, honest, doubled)
    assert [collected.said(name, Consent) for name in NAMES] == [[], [], []]
    assert collected.states() == dict.fromkeys(NAMES, "Refused")


def test_two_lists_of_members_under_one_number_get_no_second_answer(collected):
    all_three, two = Version(collected), Version(collected, ("east", "north"))
    collected.tell(hear(RoundPhase.FINGERPRINTING, east=all_three, north=two, west=all_three))
    collected.tell(everybody(two, RoundPhase.FINGERPRINTING))
    assert collected.states()["east"] == "Refused"
    assert "which this silo answered before" in collected.why("east")
    assert [len(collected.said(name, Fingerprint)) for name in NAMES] == [1, 1, 1]
    assert len(two.fingerprints) == 1
    assert [collected.said(name, Consent) for name in NAMES] == [[], [], []]
