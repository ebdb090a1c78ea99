"""U and U minus one: the aggregator has two sums of one round opened, which differ by one silo's update.

Whoever gets both openings has the victim's update as their difference. The aggregator may commit again when a silo
falls silent, so it has two commits with its signature; whether both can be opened is up to the silos. Each needs every
member's fingerprint under it, nobody goes back to an earlier commit, and a silo consents once a round: of two
certificates, of more than half each, one needs a second word of some silo.

Flower's SecAgg+ has this hole: its server says which clients are active and which dropped out, and who answers does not
compare that with what others were told, nor mind a client that stands in both lists. So the server gets the shares of
both secrets of one client, its mask seed and its mask key, and takes both masks off its update.
"""

import pytest
from cloister.wire import RoundPhase

from privacy.transcript import Consent
from tests.attacks.lying import NAMES, LyingWorld, Version, everybody, hear

FINGERPRINTING, COMMITTED, RELEASING = RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED, RoundPhase.RELEASING


@pytest.fixture
def sums(collected):
    """The sum of all three, and that without west."""
    return Version(collected), Version(collected, ("east", "north"), attempt=2)


def consents(world: LyingWorld, *versions: Version) -> list[int]:
    """How many each version got; it takes two. No silo gave two."""
    assert all(len(world.said(name, Consent)) <= 1 for name in NAMES)
    return [len(version.consents) for version in versions]


def test_every_fingerprint_under_both_first(collected, sums):
    """All answer both commits that name them; then each sum is shown to those who might consent to it."""
    whole, rest = sums
    collected.tell(everybody(whole, FINGERPRINTING))
    collected.tell(hear(FINGERPRINTING, east=rest, north=rest, west=whole))
    assert (len(whole.fingerprints), len(rest.fingerprints)) == (3, 2)
    collected.tell(hear(COMMITTED, east=whole, north=rest, west=whole))
    assert consents(collected, whole, rest) == [1, 1]
    assert "has number 1, after another, number 2" in collected.why("east")
    collected.tell(hear(RELEASING, east=whole, north=rest, west=whole))
    assert collected.states() == dict.fromkeys(NAMES, "Refused")


def test_the_later_sum_certified_and_the_earlier_one_shown_to_who_is_left_out(collected, sums):
    whole, rest = sums
    collected.tell(everybody(whole, FINGERPRINTING))
    collected.tell(hear(FINGERPRINTING, east=rest, north=rest, west=whole))
    collected.tell(hear(COMMITTED, east=rest, north=rest, west=whole))
    assert consents(collected, whole, rest) == [1, 2]
    collected.tell(everybody(rest, RELEASING))
    assert collected.states() == {"east": "Applied", "north": "Applied", "west": "Refused"}
    assert "another transcript than the one this silo consented to" in collected.why("west")


def test_the_earlier_sum_certified_before_all_have_heard_of_the_later_one(collected, sums):
    whole, rest = sums
    collected.tell(everybody(whole, FINGERPRINTING))
    collected.tell({"east": (whole, COMMITTED), "north": (rest, FINGERPRINTING), "west": (whole, COMMITTED)})
    collected.tell(hear(FINGERPRINTING, east=rest, north=rest, west=whole))
    assert len(rest.fingerprints) == 1, "east consented, and answers no commit any more"
    assert consents(collected, whole, rest) == [2, 0]
    collected.tell(hear(RELEASING, east=whole, north=rest, west=whole))
    assert collected.states() == {"east": "Applied", "north": "Refused", "west": "Applied"}


def test_a_commit_after_all_have_consented(collected, sums):
    whole, rest = sums
    for phase in (FINGERPRINTING, COMMITTED):
        collected.tell(everybody(whole, phase))
    for phase in (FINGERPRINTING, COMMITTED):
        collected.tell(everybody(rest, phase))
    assert rest.fingerprints == ()
    assert consents(collected, whole, rest) == [3, 0]
