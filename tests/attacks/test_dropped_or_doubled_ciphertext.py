"""The aggregator adds something else than the list of members says, and commits to that.

The list, the headers and H(C) are in order; only the sum is not theirs. It wants the model bent, or one silo's update
to weigh more. Whoever adds is believed in every peer system we know; here the sum's fingerprint must be the sum of what
the members signed, and it is not: every silo refuses before it consents, so nothing is opened anywhere.
"""

import pytest
from cloister.wire import RoundPhase

from privacy.transcript import Consent
from tests.attacks.lying import NAMES, Version, everybody

SUMMED = {
    "west is left out": ("east", "north"),
    "west counts twice": ("east", "north", "west", "west"),
    "west in the place of north": ("east", "west", "west"),
}


@pytest.mark.parametrize("summed", SUMMED.values(), ids=SUMMED)
def test_every_silo_refuses_before_it_consents(collected, summed):
    version = Version(collected, summed=summed)
    collected.tell(everybody(version, RoundPhase.FINGERPRINTING))
    assert len(version.fingerprints) == 3
    collected.tell(everybody(version, RoundPhase.COMMITTED))
    assert collected.states() == dict.fromkeys(NAMES, "Refused")
    assert {collected.why(name) for name in NAMES} == {
        "sum of round 1: is not the sum of its members' ciphertexts: the fingerprints differ"
    }
    assert [collected.said(name, Consent) for name in NAMES] == [[], [], []]
