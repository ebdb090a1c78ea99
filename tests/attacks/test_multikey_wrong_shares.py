"""A silo that lies with shares: what it can do is to keep a sum from opening. Nothing wrong is opened, nothing leaks.

Wrong sums of shares are told from right ones once more than t were released: by Reed-Solomon decoding, and beyond
what that can tell by the keys' and the noise's bounds. They are named in the log of every silo, as not fitting.
Dealing that is inconsistent (shares that are of no one key) is not found before the sum does not open, and who dealt
so is not told: a denial of service, as well-formed nonsense in a ciphertext is.
"""

import numpy as np
import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.canonical import DIGEST_BYTES
from privacy.ckks.shares import FIELD, encode_share
from privacy.suites import Suite
from silo_agent import keyed_rounds
from silo_agent.vault import Secret
from tests.attacks.keyed import FOUR, KeyedWorld
from tests.sim.test_sim_multikey import require_exact

TEN = tuple(f"silo-{i}" for i in range(10))
LIAR = "west"


def garbage(degree):
    return encode_share(np.random.default_rng().integers(0, FIELD, degree).astype(np.uint16))


def lie_when_releasing(world, name):
    """The silo's agent signs and seals what the liar put into its vault in the place of its sum of shares."""
    home = world.silos[name].home
    stored = home.vault.get(world.job, Secret.SHARES, 1)
    wrong = stored[:DIGEST_BYTES] + garbage((len(stored) - DIGEST_BYTES) // 2)
    home.vault.put(world.job, Secret.SHARES, wrong, round_number=1, replace=True)


def lie_a_little(world, name):
    """A wrong sum of shares with which one set of three gives a sum of keys that is off by one, within all bounds."""
    home = world.silos[name].home
    stored = bytearray(home.vault.get(world.job, Secret.SHARES, 1))
    first = slice(DIGEST_BYTES, DIGEST_BYTES + 2)
    moved = (int.from_bytes(stored[first], "little") + pow(3, -1, FIELD)) % FIELD  # its factor among points 1, 2, 3
    stored[first] = moved.to_bytes(2, "little")
    home.vault.put(world.job, Secret.SHARES, bytes(stored), round_number=1, replace=True)


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    return KeyedWorld(tmp_path_factory.mktemp("ten") / "world", *TEN)


def test_a_wrong_sum_of_shares_is_named_and_the_round_opens_without_it(ten, tmp_path, capsys):
    """n = 10, c = 3, t = 7: of ten released sums one wrong one is told."""
    world = ten.copy_to(tmp_path / "world")
    world.submit(world.plan(suite=Suite.CKKS_MULTIKEY, colluders=3, minimum=5))
    world.hold(RoundPhase.COMMITTED)
    world.run(until=lambda: world.states().get("silo-0") == "Consented")
    lie_when_releasing(world, "silo-0")
    world.lies.clear()
    world.run()
    assert world.status().phase is JobPhase.FINISHED
    row = require_exact(world)
    assert row.members == TEN, "the liar's update is in the sum: it was sealed and dealt honestly"
    said = capsys.readouterr().out
    assert "sums of shares do not fit the others" in said
    assert "['silo-0']" in said


@pytest.fixture
def four_begun(four, tmp_path):
    world = four.copy_to(tmp_path / "world")
    world.begin(rounds=1)
    return world


def nothing_was_opened(world):
    assert [row.phase for row in world.rounds() if row.phase is RoundPhase.PUBLISHED] == []
    assert world.status().phase is JobPhase.STOPPED
    for silo in world.silos.values():
        assert silo.adapter[0] == 0
        silo.check_ledger()


@pytest.mark.parametrize("lie", [lie_when_releasing, lie_a_little])
def test_of_four_one_wrong_sum_of_shares_is_named_and_the_round_opens_without_it(four_begun, capsys, lie):
    """n = 4, c = 1, t = 3: one spare share detects an error and locates none; the bounds do."""
    world = four_begun
    world.hold(RoundPhase.COMMITTED)
    world.run(until=lambda: world.states().get("east") == "Consented")
    lie(world, "east")
    world.lies.clear()
    world.run(seconds=5.0)
    assert require_exact(world).members == FOUR
    said = capsys.readouterr().out
    assert "sums of shares do not fit the others" in said
    assert "['east']" in said


def test_of_three_that_released_one_wrongly_nothing_is_opened(four_begun):
    """The fourth is gone for good: no spare share is left."""
    world = four_begun
    world.hold(RoundPhase.COMMITTED)
    world.run(until=lambda: list(world.states().values()) == ["Consented"] * 4)
    lie_when_releasing(world, "east")
    world.leave("south")
    world.lies.clear()
    world.run(seconds=5.0)
    nothing_was_opened(world)
    assert "sum of keys" in world.why("north")


def test_shares_of_no_one_key_keep_the_sum_from_opening(four_begun, monkeypatch):
    honest = keyed_rounds.seal_shares

    def inconsistent(ctx, roll, sender, shares):
        if sender == LIAR:
            shares = [garbage(len(share) // 2) for share in shares]
        return honest(ctx, roll, sender, shares)

    monkeypatch.setattr(keyed_rounds, "seal_shares", inconsistent)
    four_begun.run(seconds=5.0)
    nothing_was_opened(four_begun)
    reasons = [four_begun.why(name) for name in FOUR]
    assert all("released shares" in why or "sum of keys" in why for why in reasons)
    assert not any(LIAR in why for why in reasons), "nobody can tell that it was this silo"


def test_a_share_of_no_use_to_one_silo_shows_as_that_silos_wrong_sum_and_the_round_opens(
    four_begun, monkeypatch, capsys
):
    """Who does not fit is named; whether it released or was dealt a wrong share, nobody can tell."""
    honest = keyed_rounds.seal_shares

    def inconsistent(ctx, roll, sender, shares):
        if sender == LIAR:
            shares = [garbage(len(shares[0]) // 2), *shares[1:]]
        return honest(ctx, roll, sender, shares)

    monkeypatch.setattr(keyed_rounds, "seal_shares", inconsistent)
    four_begun.run(seconds=5.0)
    assert require_exact(four_begun).members == FOUR
    assert "['east']" in capsys.readouterr().out


def test_mails_that_more_than_c_silos_cannot_read_cost_their_sender_its_place_in_the_sum(four_begun, monkeypatch):
    honest = keyed_rounds.seal_shares

    def unreadable(ctx, roll, sender, shares):
        mails = honest(ctx, roll, sender, shares)
        return [bytes(len(mail)) for mail in mails[:2]] + mails[2:] if sender == LIAR else mails

    monkeypatch.setattr(keyed_rounds, "seal_shares", unreadable)
    four_begun.run(seconds=5.0)
    assert "own update is not in it" in four_begun.why(LIAR)
    four_begun.silos[LIAR].up = False
    row = require_exact(four_begun)
    assert row.members == ("east", "north", "south")


def test_a_mail_that_one_silo_cannot_read_costs_one_consent(four_begun, monkeypatch):
    """n = 4, c = 1: three consents are enough. Who cannot read opens the sum with the others all the same."""
    honest = keyed_rounds.seal_shares

    def unreadable(ctx, roll, sender, shares):
        mails = honest(ctx, roll, sender, shares)
        return [bytes(len(mails[0])), *mails[1:]] if sender == LIAR else mails

    monkeypatch.setattr(keyed_rounds, "seal_shares", unreadable)
    four_begun.run(seconds=5.0)
    row = require_exact(four_begun)
    assert row.members == FOUR
