"""U and U minus one, with one-time keys: the attacker wants sums of shares for both, and so two sums of keys.

The aggregator may commit again without a silo that fell silent. A protocol in which each silo releases its shares for
the commit it is shown, and again for the next, opens both sums; their difference is one silo's update. So it is in any
threshold scheme whose parties take the list of summands from the server. The first test runs that protocol on the
ciphertexts and share mails of the real agents, and gets the update. The others run the real agents: consents first,
one a round; releases on a certificate alone, of one transcript. The attacker is the aggregator with `west`.
"""

import numpy as np
import pytest
from cloister.wire import RoundPhase

from privacy.errors import VerificationError
from privacy.keyed import Release
from privacy.transcript import Consent
from tests.attacks.keyed import FOUR, THRESHOLD, KeyedVersion, grid_of, key_of, opened, sum_of_shares
from tests.attacks.lying import everybody, hear

FINGERPRINTING, COMMITTED, SHARING = RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED, RoundPhase.SHARING
RELEASING = RoundPhase.RELEASING
VICTIM, COLLUDER = "south", "west"


@pytest.fixture
def sums(keyed):
    """The sum of all four, and that without the victim."""
    without = tuple(name for name in FOUR if name != VICTIM)
    return KeyedVersion(keyed), KeyedVersion(keyed, without, attempt=2)


def test_silos_that_release_on_a_commit_alone_open_one_update(keyed, sums):
    """A copy of steps 5 to 7 without consents and certificate: this succeeds."""
    totals = []
    for version in sums:
        released = {name: sum_of_shares(keyed, name, version.members) for name in version.members[:THRESHOLD]}
        key = key_of(released, len(version.members))
        totals.append(opened(key, keyed.context(), len(version.members), version.chunks))
    stolen = totals[0] - totals[1]
    assert np.abs(stolen - grid_of(keyed, VICTIM)).max() <= 1, "the victim's values, to the rounding of the grid"


def gained(world, versions):
    """How many sums of shares the attacker has for each version: what was released, and what its silo holds."""
    assert all(len(world.said(name, Release)) <= 1 for name in FOUR)
    assert all(len(world.said(name, Consent)) <= 1 for name in FOUR)
    return [len({*version.released_by, COLLUDER}) for version in versions]


def test_every_fingerprint_under_both_then_each_sum_to_who_might_consent(keyed, sums):
    whole, rest = sums
    keyed.tell(everybody(whole, FINGERPRINTING))
    keyed.tell(hear(FINGERPRINTING, east=rest, north=rest, south=whole, west=rest))
    assert (len(whole.fingerprints), len(rest.fingerprints)) == (4, 3)
    keyed.tell(hear(COMMITTED, east=rest, north=whole, south=whole, west=rest))
    assert (len(whole.consents), len(rest.consents)) == (1, 2), "north answered the later commit and does not go back"
    keyed.tell(hear(SHARING, east=rest, north=whole, south=whole, west=rest))
    assert gained(keyed, sums) == [1, 1], "no certificate, no release"
    assert keyed.said("east", Release) == []


def test_one_sum_certified_and_the_other_shown_to_those_who_are_left(keyed, sums):
    whole, rest = sums
    keyed.tell(everybody(whole, FINGERPRINTING))
    keyed.tell(hear(FINGERPRINTING, east=rest, north=rest, south=whole, west=rest))
    keyed.tell(hear(COMMITTED, east=rest, north=rest, south=whole, west=rest))
    assert (len(whole.consents), len(rest.consents)) == (1, 3)
    for phase in (SHARING, RELEASING):
        keyed.tell(hear(phase, east=rest, north=rest, south=whole, west=rest))
    assert gained(keyed, sums) == [1, 3], "one sum opens, for the other the attacker has its own silo's shares alone"
    assert keyed.said(VICTIM, Release) == []
    assert keyed.states() == {"east": "Applied", "north": "Applied", "south": "Refused", "west": "Applied"}


def test_the_sums_of_shares_of_one_sum_open_no_other(keyed, sums):
    """With the key that the certified sum was opened with, the attacker tries the other sum and the victim's update."""
    whole, rest = sums
    key = key_of({name: sum_of_shares(keyed, name, rest.members) for name in rest.members}, len(rest.members))
    assert len(opened(key, keyed.context(), 3, rest.chunks)) > 0
    for members, chunks in ((4, whole.chunks), (3, whole.updates[VICTIM].chunks), (3, whole.updates["east"].chunks)):
        with pytest.raises(VerificationError, match="has more noise than"):
            opened(key, keyed.context(), members, chunks)


def test_a_commit_after_the_releases_gets_nothing(keyed, sums):
    whole, rest = sums
    for phase in (FINGERPRINTING, COMMITTED, SHARING):
        keyed.tell(everybody(whole, phase))
    assert gained(keyed, sums) == [4, 1]
    for phase in (FINGERPRINTING, COMMITTED, SHARING):
        keyed.tell(everybody(rest, phase))
    assert rest.fingerprints == ()
    assert gained(keyed, sums) == [4, 1]
