"""U and U minus one, with one-time keys: the attacker wants sums of shares for both, and so two sums of keys.

The aggregator may commit again without a silo that fell silent. A protocol in which each silo releases its shares for
the commit it is shown, and again for the next, opens both sums; their difference is one silo's update. One release a
round is not enough either: sums of shares over different sets combine linearly, and keys are small. The first two tests
run such copies of steps 5 to 7, on the real shares and ciphertexts, and get what they are after. The others run the
real agents: consents first, one a round; releases on a certificate alone, of one transcript. The attacker is the
aggregator with `west`.
"""

import numpy as np
import pytest
from cloister.wire import RoundPhase

from privacy.ckks.multikey import OneTimeKey
from privacy.ckks.multikey_params import MultikeyParams
from privacy.ckks.sampling import SecureBits
from privacy.ckks.shares import FIELD
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


# n = 10, c = 3, t = 7, by point; the attacker picks who sees what so that few pairs of small sums fit.
COLLUDERS, FIRST, SECOND, BOTH = (3, 5, 10), (2, 9), (7, 8), (1, 4, 6)


def solved(rows, right):
    """One solution of rows x = right modulo the field for each column of `right`, and the vector that rows map to 0."""
    rows, right = [list(row) for row in rows], [list(row) for row in right]
    pivots = []
    for column in range(len(rows[0])):
        chosen = next((i for i in range(len(pivots), len(rows)) if rows[i][column]), None)
        if chosen is None:
            continue
        place = len(pivots)
        rows[place], rows[chosen] = rows[chosen], rows[place]
        right[place], right[chosen] = right[chosen], right[place]
        factor = pow(rows[place][column], -1, FIELD)
        rows[place] = [value * factor % FIELD for value in rows[place]]
        right[place] = [value * factor % FIELD for value in right[place]]
        for i in range(len(rows)):
            if i != place and rows[i][column]:
                times = rows[i][column]
                rows[i] = [(a - times * b) % FIELD for a, b in zip(rows[i], rows[place], strict=True)]
                right[i] = [(a - times * b) % FIELD for a, b in zip(right[i], right[place], strict=True)]
        pivots.append(column)
    (free,) = set(range(len(rows[0]))) - set(pivots)
    kernel = [0] * len(rows[0])
    kernel[free] = 1
    solution = [[0] * len(right[0]) for _ in rows[0]]
    for place, column in enumerate(pivots):
        kernel[column] = -rows[place][free] % FIELD
        solution[column] = right[place]
    return solution, kernel


def test_one_release_each_without_a_certificate_gives_two_sums_of_keys_away():
    """Two silos are shown U1, two U2, three U1 and U2 together; each releases once, for five members or more.

    Three colluders have their shares of every key. That leaves one unknown a coefficient for the sums over U1 and U2
    together, both of which are small: for nearly every coefficient one pair alone fits. Two sums of keys come out that
    nobody agreed to open.
    """
    params, bits = MultikeyParams("small", 10, 16), SecureBits()
    keys = [OneTimeKey.generate(params, bits) for _ in range(10)]
    truth = [np.frombuffer(key.to_bytes(), np.int8)[:64].astype(int) for key in keys]
    dealt = [key.deal(7, range(1, 11), bits)[:, :64].astype(int) for key in keys]
    one, two = (1, 2, 4, 5, 8), (3, 6, 7, 9, 10)

    def sums(members, point):
        return sum(dealt[member - 1][point - 1] for member in members) % FIELD

    powers = {point: [pow(point, k, FIELD) for k in range(7)] for point in range(1, 11)}
    zeros = [0] * 7
    rows = [powers[x] + zeros for x in COLLUDERS + FIRST] + [zeros + powers[x] for x in COLLUDERS + SECOND]
    rows += [powers[x] * 2 for x in BOTH]
    right = [sums(one, x) for x in COLLUDERS + FIRST] + [sums(two, x) for x in COLLUDERS + SECOND]
    right += [sums(one + two, x) for x in BOTH]
    solution, kernel = solved(rows, [[int(value) for value in row] for row in right])
    small = range(-70, 71)  # five standard deviations of a sum of five keys
    found = 0
    for k in range(64):
        ways = []
        for first in small:
            unknown = (first - solution[0][k]) * pow(kernel[0], -1, FIELD) % FIELD
            second = (solution[7][k] + unknown * kernel[7]) % FIELD
            second -= FIELD if second > FIELD // 2 else 0
            if second in small:
                ways.append((first, second))
        right_way = sum(truth[member - 1][k] for member in one), sum(truth[member - 1][k] for member in two)
        found += ways == [right_way]
    assert found > 48, "three quarters of the coefficients and more, of both sums"


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
