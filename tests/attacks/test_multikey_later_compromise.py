"""Somebody keeps every mail, ciphertext and release, and breaks into a silo later.

The keys that open share mails and releases are made for one round and erased with it. What is left in a silo's folder
(its identity key, the job's mail key while the job runs) opens none of them; a participant's release is sealed to keys
of the round. Shamir's shares of a key are on no disk: only their sum, from consent to release. One limit: who was
away in a round can follow by its mail key of the job, and so can who steals that while the job runs.
"""

import os

import numpy as np
import pytest
from cloister.wire import RoundPhase

from privacy.ckks.shares import check_share
from privacy.ckks.shares import open_sum as open_keys
from privacy.errors import ProtocolError, VerificationError
from privacy.keyed import Release
from privacy.keyed_mail import open_release, open_share
from privacy.mail import MailKey
from privacy.roll import JobJoin
from privacy.statement import read
from silo_agent.vault import Secret
from tests.attacks.keyed import FOUR, LAYOUT, add, grid_of, opened

OF_A_ROUND = (Secret.SHARE_KEY, Secret.OPEN_KEY)


def files_of(world, name):
    return [path for path in world.silos[name].state.rglob("*") if path.is_file()]


@pytest.fixture
def afterwards(keyed):
    """Round 1 is over and the job goes on; what the attacker kept, and the keys as they were (to look for)."""
    kept, ctx, roll = keyed.ciphertexts(), keyed.context(), keyed.roll()
    keys = {name: [keyed.secret_of(name, secret) for secret in OF_A_ROUND] for name in FOUR}
    keyed.lies.clear()
    keyed.run(
        until=lambda: keyed.rounds()[0].phase is RoundPhase.PUBLISHED and set(keyed.states().values()) == {"Applied"}
    )
    return keyed, kept, ctx, roll, keys


def test_the_keys_of_a_round_are_on_no_disk_any_more(afterwards):
    world, _, _, _, keys = afterwards
    for name in FOUR:
        contents = [path.read_bytes() for path in files_of(world, name)]
        assert contents
        for key in keys[name]:
            assert not any(key in content for content in contents)


def test_what_is_left_in_a_silos_folder_opens_no_share(afterwards):
    world, kept, ctx, roll, keys = afterwards
    for name in FOUR:
        place = FOUR.index(name)
        left = [path.read_bytes() for path in (world.silos[name].state / "vault").rglob("*") if path.is_file()]
        usable = [data for data in left if len(data) == len(keys[name][0])]
        assert usable, "the job's mail key: it opens deals and releases of rounds that the silo missed"
        for sender in FOUR:
            mail = kept[sender].mails[place]
            assert open_share(MailKey(keys[name][0]), ctx, roll, mail, sender=sender, to=name)
            for data in usable:
                with pytest.raises(ProtocolError, match="does not open"):
                    open_share(MailKey(data), ctx, roll, mail, sender=sender, to=name)


def test_when_the_job_is_over_nothing_is_left(afterwards):
    world = afterwards[0]
    world.run()
    for name in FOUR:
        assert [path for path in (world.silos[name].state / "vault").rglob("*") if path.is_file()] == []


def test_the_mail_key_of_a_silo_that_was_away_opens_the_sum_and_no_update(four, tmp_path):
    world = four.copy_to(tmp_path / "world")
    world.begin()
    world.run(until=lambda: bool(world.said("west", JobJoin)))
    world.leave("west")
    world.hold(RoundPhase.SHARING)
    world.run(until=lambda: any(row.phase is RoundPhase.RELEASING for row in world.rounds()), seconds=4.0)
    row = world.rounds()[-1]
    stolen, number = MailKey(world.secret_of("west", Secret.MAIL_KEY, 0)), row.round
    assert row.participants == row.members == FOUR[:3]

    ctx, sums = world.context(number), {}
    for shown in world.shown_releases(number, "west"):
        release = read(shown.release, Release)
        of, mine = bytes.fromhex(release.transcript), {"sender": release.silo, "to": "west"}
        data = open_release(stolen, ctx, of, shown.body, shown.mail, **mine)
        sums[FOUR.index(release.silo) + 1] = check_share(data, LAYOUT.degree, sender=release.silo, step="release")
    key = open_keys(sums, 3, LAYOUT.params.bound(3), os.urandom).total

    updates = {name: world.ciphertexts(number)[name].chunks for name in FOUR[:3]}
    total = opened(key, ctx, 3, add(updates.values()))
    assert np.abs(total - sum(grid_of(world, name, number) for name in updates)).max() <= 3
    for chunks in updates.values():
        with pytest.raises(VerificationError):
            opened(key, ctx, 3, chunks)
