"""A sum that is not its members': doubled, dropped or swapped ciphertexts, with one-time keys.

Without fingerprints the noise would show it too, but only when shares are released and the key's sum is known. They
show it before anybody consents: no share leaves a silo.
"""

import pytest
from cloister.wire import RoundPhase

from privacy.keyed import Release
from privacy.transcript import Consent
from tests.attacks.keyed import FOUR, KeyedVersion
from tests.attacks.lying import everybody


@pytest.mark.parametrize(
    "summed",
    [("east", "north", "south"), ("east", "north", "south", "west", "west"), ("east", "east", "south", "west")],
    ids=["one dropped", "one doubled", "one in another's place"],
)
def test_a_sum_of_other_ciphertexts_gets_no_consent(keyed, summed):
    version = KeyedVersion(keyed, summed=summed)
    keyed.tell(everybody(version, RoundPhase.FINGERPRINTING))
    assert len(version.fingerprints) == 4
    for phase in (RoundPhase.COMMITTED, RoundPhase.SHARING):
        keyed.tell(everybody(version, phase))
    assert all(keyed.said(name, Consent) == [] == keyed.said(name, Release) for name in FOUR)
    assert keyed.states() == dict.fromkeys(FOUR, "Refused")
    assert "is not the sum of its members' ciphertexts" in keyed.why("east")


def test_the_honest_sum_is_opened_by_all(keyed):
    version = KeyedVersion(keyed)
    phases = (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED, RoundPhase.SHARING, RoundPhase.RELEASING)
    for phase in phases:
        keyed.tell(everybody(version, phase))
    assert keyed.states() == dict.fromkeys(FOUR, "Applied")
