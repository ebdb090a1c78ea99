"""The aggregator with one silo, against one-time keys: all that both have opens the sum, and no update.

The attacker has the aggregator's disk, with every ciphertext, share mail and release, and all that `west` ever held in
memory or in its vault. In `ckks-group` the same attacker reads every update
(test_group_server_plus_one_silo.py); so it does in NVIDIA FLARE and APPFL, and in Flower's SecAgg+ a server that
says different things to different clients gets both secrets of one. OpenFL's aggregator rebuilds every mask seed.
"""

import os

import numpy as np
import pytest

from privacy.ckks.shares import FIELD
from privacy.errors import InternalError, ProtocolError, VerificationError
from privacy.keyed_mail import open_share
from privacy.mail import MailKey
from silo_agent.vault import Secret
from tests.attacks.keyed import (
    FOUR,
    LAYOUT,
    KeyedVersion,
    grid_of,
    key_of,
    opened,
    shares_of,
    sum_of_shares,
)

VICTIM, COLLUDER = "south", "west"


def test_of_all_share_mails_the_colluder_opens_its_own_alone(keyed):
    keys = [MailKey(keyed.secret_of(COLLUDER, secret)) for secret in (Secret.SHARE_KEY, Secret.OPEN_KEY)]
    keys.append(MailKey(keyed.secret_of(COLLUDER, Secret.MAIL_KEY, 0)))
    ctx, roll, opened_for = keyed.context(), keyed.roll(), []
    for sender, update in keyed.ciphertexts().items():
        for to, mail in zip(FOUR, update.mails, strict=True):
            for key in keys:
                try:
                    open_share(key, ctx, roll, mail, sender=sender, to=to)
                except ProtocolError:
                    continue
                opened_for.append(to)
    assert opened_for == [COLLUDER] * len(FOUR), "one share of each key, of the three that it takes"


def through(points, at):
    """The value at `at` of the one polynomial below degree 3 through three points, modulo the field; by Lagrange."""
    total = np.zeros(LAYOUT.degree, object)
    for x, values in points.items():
        factor = 1
        for other in points:
            if other != x:
                factor = factor * (at - other) * pow(x - other, -1, FIELD) % FIELD
        total = (total + factor * values.astype(object)) % FIELD
    return total.astype(np.uint16)


def test_every_key_is_as_likely_given_the_colluders_share(keyed):
    """For whatever key, there are shares of the others that give it together with the one that the colluder holds."""
    held = shares_of(keyed, COLLUDER, VICTIM)
    random = np.random.default_rng(1)
    for candidate in (np.zeros(LAYOUT.degree, np.int64), random.integers(-20, 21, LAYOUT.degree)):
        of_east = random.integers(0, FIELD, LAYOUT.degree)
        of_north = through({0: candidate % FIELD, 4: held, 1: of_east}, 2)
        found = key_of({"east": of_east.astype(np.uint16), "north": of_north, COLLUDER: held}, 1)
        assert np.array_equal(found, candidate)


def test_fewer_shares_than_it_takes_give_nothing(keyed):
    held = shares_of(keyed, COLLUDER, VICTIM)
    with pytest.raises(InternalError, match="threshold of 3"):
        key_of({COLLUDER: held}, 1)
    guesses = [np.frombuffer(os.urandom(2 * LAYOUT.degree), "<u2") % FIELD for _ in range(2)]
    with pytest.raises(VerificationError):
        key_of({"east": guesses[0].astype(np.uint16), "north": guesses[1].astype(np.uint16), COLLUDER: held}, 1)


def test_the_key_that_a_finished_round_gives_opens_the_sum_and_no_update(keyed):
    """What anybody has after the releases: S. It opens what it was agreed on; one update has other noise with it."""
    version = KeyedVersion(keyed)
    key = key_of({name: sum_of_shares(keyed, name, FOUR) for name in FOUR[:3]}, 4)
    total = opened(key, keyed.context(), 4, version.chunks)
    grids = {name: grid_of(keyed, name) for name in FOUR}
    assert np.abs(total - sum(grids.values())).max() <= 4
    rest = total - grids[COLLUDER]
    assert np.abs(rest - sum(grids[name] for name in FOUR if name != COLLUDER)).max() <= 4, "all that it can get"
    for name in (VICTIM, "east", "north"):
        with pytest.raises(VerificationError, match="has more noise than"):
            opened(key, keyed.context(), 3, version.updates[name].chunks)


def test_a_ciphertext_without_its_key_looks_like_noise(keyed):
    """No correlation with the victim's values, within 6 standard errors, in any row of residues."""
    grid = grid_of(keyed, VICTIM).astype(float)
    (chunk,) = keyed.ciphertexts()[VICTIM].chunks
    residues = LAYOUT.check(chunk, 0)[0][:, : LAYOUT.width(0)].astype(float)
    fields = np.zeros(LAYOUT.params.fields * LAYOUT.width(0))
    fields[: len(grid)] = grid
    for row, prime in zip(residues, LAYOUT.moduli, strict=True):
        used = row[: -(-len(grid) // LAYOUT.params.fields)]
        assert abs(used.mean() / prime - 0.5) < 6 / np.sqrt(12 * len(used))
        for values in fields.reshape(LAYOUT.params.fields, -1):
            correlation = np.corrcoef(values[: len(used)], used)[0, 1]
            assert np.isnan(correlation) or abs(correlation) < 6 / np.sqrt(len(used))


def test_a_sum_of_one_is_not_released_for(keyed):
    """Flower's server asks for the secrets of one client. Here it would have to commit to a sum of one, or of two."""
    from cloister.wire import RoundPhase

    from privacy.keyed import Release
    from tests.attacks.lying import everybody

    alone = KeyedVersion(keyed, (VICTIM, COLLUDER))
    for phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED, RoundPhase.SHARING):
        keyed.tell(everybody(alone, phase))
    assert alone.fingerprints == ()
    assert all(keyed.said(name, Release) == [] for name in FOUR)
    assert "sums 2 updates; the plan's minimum is 3" in keyed.why(VICTIM)
