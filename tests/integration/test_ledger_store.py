"""The ledger in a real database: with its transaction or not at all, and never silently altered."""

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, MetaData, delete, insert, inspect, select, update

from certs.names import Role
from privacy.errors import CloisterError, ConfigError, InternalError, VerificationError
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import KeyEntry
from privacy.ledger.merkle import root, verify_consistency, verify_inclusion
from runtime.database import open_database, read, write
from runtime.ledger_store import Ledger, LogIdentity
from runtime.ledger_tables import ledger_tables
from tests.ledger_logs import key_entry, policy_entry, sample_log
from tests.merkle_oracle import slow_consistency, slow_inclusion
from tests.pki import make_ca, make_wallet

METADATA = MetaData()
TABLES = ledger_tables(METADATA)
KEY = Ed25519PrivateKey.generate()
IDENTITY = LogIdentity("heart", "hospital-a", KEY.public_key().public_bytes_raw())
NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path / "silo.db")
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def filled(engine: Engine) -> Engine:
    with write(engine) as connection:
        ledger = Ledger.begin(connection, TABLES, IDENTITY)
        for body in sample_log().entries:
            ledger.append(decode_entry(body))
            if ledger.size in (4, 8):
                ledger.checkpoint(KEY.sign, NOW)
    return engine


def at(utc: str) -> KeyEntry:
    return key_entry().model_copy(update={"utc": utc})


def certified(folder: Path) -> LogIdentity:
    """Whose certificate is valid from shortly before NOW, for two years."""
    own = make_wallet(make_ca(folder / "pki", NOW), folder, Role.SILO, "hospital-a", NOW).identity()
    return LogIdentity("heart", "hospital-a", own.public_key, own.certificate_pem)


@pytest.mark.parametrize("utc", ["2029-03-01T09:00:00Z", "2028-03-01T09:00:01Z", "2026-02-01T09:00:00Z"])
def test_nothing_is_written_at_a_time_when_the_logs_certificate_is_not_valid(engine, tmp_path, utc) -> None:
    """By a clock that is ahead for a moment, after which nothing could be appended any more."""
    identity = certified(tmp_path)
    with write(engine) as connection:
        ledger = Ledger.begin(connection, TABLES, identity)
        ledger.append(at("2026-03-01T09:00:00Z"))
        why = rf"clock it is {utc}, and its certificate is valid from 2026-03-01T08:50:00Z to 2028-02-29T09:00:00Z"
        with pytest.raises(ConfigError, match=rf"ledger of cloister/heart/hospital-a: .*{why}.*timedatectl.*renew"):
            ledger.append_all([at("2026-03-01T09:00:01Z"), at(utc)])
        assert ledger.size == 1
        ledger.append(at("2028-02-29T09:00:00Z"))
        ledger.check()


def test_a_clock_that_is_behind_is_told_from_an_entry_of_the_future(engine, tmp_path) -> None:
    with write(engine) as connection:
        ledger = Ledger.begin(connection, TABLES, IDENTITY)
        ledger.append(at("2029-03-01T09:00:00Z"))
        with pytest.raises(ConfigError, match=r"Set the clock if it is behind.*If it is right, a clock was ahead"):
            ledger.append(at("2026-03-01T09:00:00Z"))
        connection.execute(update(TABLES.log).values(certificate_pem=certified(tmp_path).certificate_pem))
        with pytest.raises(
            ConfigError, match=r"after its certificate ends\. Then a clock was ahead.*under a new name"
        ) as found:
            Ledger(connection, TABLES).append(at("2026-03-01T09:00:00Z"))
        assert "Set the clock" not in str(found.value)


@pytest.mark.parametrize("program", ["silo_agent.migrations", "aggregator.migrations"])
def test_both_programs_migrations_make_the_tables_that_the_code_expects(program: str, tmp_path: Path) -> None:
    engine = open_database(tmp_path / "program.db", program)
    for table in (TABLES.log, TABLES.entries, TABLES.nodes, TABLES.checkpoints):
        found = {column["name"]: column["nullable"] for column in inspect(engine).get_columns(table.name)}
        assert found == {column.name: bool(column.nullable) for column in table.columns}
    with write(engine) as connection:
        ledger = Ledger.begin(connection, TABLES, IDENTITY)
        ledger.append(key_entry())
        ledger.check()
    engine.dispose()


@pytest.mark.parametrize("program", ["silo_agent.migrations", "aggregator.migrations"])
@pytest.mark.parametrize("size", [0, 17, 2500])
def test_a_database_from_before_the_tree_was_kept_gets_its_nodes(program: str, size: int, tmp_path: Path) -> None:
    """And the latest time of its entries, though before the last of them the clock was set back."""
    now, set_back = open_database(tmp_path / "now.db", program), {"utc": "2026-03-01T08:20:00Z"}
    with write(now) as connection:
        entries = [key_entry().model_copy(update=set_back if i == size - 1 else {}) for i in range(size)]
        Ledger.begin(connection, TABLES, IDENTITY).append_all(entries)
        log = connection.execute(select(TABLES.log)).mappings().one()
        rows = [dict(row) for row in connection.execute(select(TABLES.entries)).mappings()]
        nodes = connection.execute(select(TABLES.nodes)).all()
    now.dispose()
    before = at_first_revision(tmp_path / "program.db", program)
    with write(before) as connection:
        known = {column["name"] for column in inspect(connection).get_columns("ledger_log")}
        connection.execute(insert(TABLES.log).values({name: value for name, value in log.items() if name in known}))
        if rows:
            connection.execute(insert(TABLES.entries), rows)
    before.dispose()
    again = open_database(tmp_path / "program.db", program)
    with write(again) as connection:
        assert connection.execute(select(TABLES.nodes)).all() == nodes
        ledger = Ledger(connection, TABLES)
        ledger.check()
        assert connection.execute(select(TABLES.log.c.newest_utc)).scalar_one() == log["newest_utc"]
        assert ledger.append(key_entry()) == size
        ledger.check()
    again.dispose()


def at_first_revision(path: Path, program: str) -> Engine:
    """A database as the program's first version made it."""
    engine, config = open_database(path), Config()
    config.set_main_option("script_location", str(files("runtime.schema")))
    config.set_main_option("version_locations", str(files(program) / "versions"))
    config.set_main_option("path_separator", "newline")
    with write(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{program.split('_')[0].split('.')[0]}_0001")
    return engine


def test_entries_are_numbered_hashed_and_added_up(filled: Engine) -> None:
    expected = sample_log()
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        assert list(ledger.entries()) == expected.entries
        assert list(ledger.entries(since=3, until=7)) == expected.entries[3:7]
        assert ledger.leaf_hashes(ledger.size) == tuple(expected.leaves)
        assert ledger.append(key_entry()) == len(expected.entries)
        assert [note.split("\n")[1] for note in ledger.notes()] == ["4", "8"]
        assert ledger.budgets()["cardiology"].spent_epsilon > 0
        ledger.check()


def test_every_proof_is_the_one_of_the_standard(filled: Engine) -> None:
    leaves = sample_log().leaves
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        for size in range(1, len(leaves) + 1):
            for place in range(size):
                proof = ledger.inclusion_proof(place, size)
                assert proof == slow_inclusion(leaves[:size], place)
                verify_inclusion(leaves[place], place, size, proof, root(leaves[:size]))
                proof = ledger.consistency_proof(place + 1, size)
                assert proof == slow_consistency(leaves[:size], place + 1)
                verify_consistency(place + 1, root(leaves[: place + 1]), size, root(leaves[:size]), proof)
        for prove in (ledger.inclusion_proof, ledger.consistency_proof):
            with pytest.raises(InternalError, match=f"no tree of {len(leaves) + 1} entries"):
                prove(1, len(leaves) + 1)


def test_entries_appended_together_are_those_appended_one_by_one(filled: Engine) -> None:
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        size = ledger.size
        assert ledger.append_all([policy_entry(), key_entry(), key_entry()]) == size
        assert ledger.append_all([]) == ledger.size == size + 3
        ledger.check()
        for place, body in enumerate(ledger.entries()):
            assert decode_entry(body).sequence == place


def test_of_entries_appended_together_all_are_sound_or_none_is_there(filled: Engine) -> None:
    foreign = key_entry().model_copy(update={"institution": "hospital-b"})
    early = key_entry().model_copy(update={"utc": "2026-02-01T09:00:00Z"})
    undecodable = key_entry().model_copy(update={"utc": "yesterday"})
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        size = ledger.size
        for wrong, fault in ((foreign, InternalError), (early, ConfigError), (undecodable, CloisterError)):
            with pytest.raises(fault):
                ledger.append_all([key_entry(), wrong])
            assert ledger.size == size
        ledger.check()


def test_two_writers_at_once_are_our_bug(filled: Engine) -> None:
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        stale = ledger._frontier()
        ledger.append(key_entry())
        with pytest.raises(InternalError, match="two writers appended at once"):
            ledger._move(stale.size, stale, None)


def test_a_checkpoint_is_made_once_per_size(filled: Engine) -> None:
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        first = ledger.checkpoint(KEY.sign, NOW)
        assert ledger.checkpoint(KEY.sign, NOW) == first
        assert first in ledger.notes()
        assert len(ledger.notes()) == 3
        assert root(ledger.leaf_hashes(ledger.size)) == root(sample_log().leaves)


def test_a_transaction_that_fails_leaves_nothing(filled: Engine) -> None:
    def fail() -> None:
        with write(filled) as connection:
            Ledger(connection, TABLES).append(key_entry())
            raise RuntimeError("the journal could not be written")

    with pytest.raises(RuntimeError):
        fail()
    with write(filled) as connection:
        ledger = Ledger(connection, TABLES)
        assert ledger.size == len(sample_log().entries)
        ledger.check()


def test_a_database_without_a_ledger_says_so(engine: Engine) -> None:
    with write(engine) as connection, pytest.raises(ConfigError, match="ledger: this database has none yet"):
        Ledger(connection, TABLES)


def test_somebody_elses_ledger_is_not_continued(filled: Engine) -> None:
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    for identity in (
        LogIdentity("heart", "hospital-a", stranger),
        LogIdentity("lung", "hospital-a", IDENTITY.public_key),
    ):
        with write(filled) as connection, pytest.raises(ConfigError, match="the identity at hand is another one"):
            Ledger.begin(connection, TABLES, identity)


def test_a_renewed_certificate_is_kept(filled: Engine) -> None:
    renewed = LogIdentity("heart", "hospital-a", IDENTITY.public_key, b"new pem")
    with write(filled) as connection:
        assert Ledger.begin(connection, TABLES, renewed).identity == renewed
        assert Ledger.begin(connection, TABLES, IDENTITY).identity == renewed


def test_an_entry_of_another_institution_is_our_bug(filled: Engine) -> None:
    foreign = policy_entry().model_copy(update={"institution": "hospital-b"})
    with write(filled) as connection, pytest.raises(InternalError, match="is of hospital-b"):
        Ledger(connection, TABLES).append(foreign)


def test_a_clock_far_behind_the_newest_entry_is_named_before_nobody_can_verify_the_log(filled: Engine) -> None:
    earlier = key_entry().model_copy(update={"utc": "2026-03-01T08:00:00Z"})
    with write(filled) as connection:
        Ledger(connection, TABLES).append(earlier)
    too_early = key_entry().model_copy(update={"utc": "2026-03-01T07:59:59Z"})  # a second after the one before
    complaint = r"clock it is 2026-03-01T07:59:59Z, and its latest entry is of 2026-03-01T09:00:00Z.*timedatectl"
    for entries in ([too_early], [earlier, too_early]):
        with write(filled) as connection, pytest.raises(ConfigError, match=complaint):
            Ledger(connection, TABLES).append_all(entries)
    with read(filled) as connection:
        Ledger(connection, TABLES).check()


def test_a_clock_that_shows_no_time_begins_no_log(engine: Engine) -> None:
    entry = key_entry().model_copy(update={"utc": "1970-01-01T00:00:07Z"})
    with write(engine) as connection, pytest.raises(ConfigError, match=r"1970-01-01T00:00:07Z.*timedatectl"):
        Ledger.begin(connection, TABLES, IDENTITY).append(entry)


def test_an_empty_ledger_or_a_foreign_key_signs_nothing(engine: Engine) -> None:
    with write(engine) as connection:
        ledger = Ledger.begin(connection, TABLES, IDENTITY)
        with pytest.raises(InternalError, match="has no entries"):
            ledger.checkpoint(KEY.sign, NOW)
        ledger.append(key_entry())
        with pytest.raises(InternalError, match="the log's key did not sign it"):
            ledger.checkpoint(Ed25519PrivateKey.generate().sign, NOW)


def test_what_was_altered_in_the_database_is_named_at_start_up(filled: Engine) -> None:
    entries, log, nodes, notes = TABLES.entries, TABLES.log, TABLES.nodes, TABLES.checkpoints
    node = (nodes.c.level == 1) & (nodes.c.position == 2)
    stray = {"level": 1, "position": 99, "hash": bytes(32)}
    body = sample_log().entries[5].replace(b"2026-03-01", b"2026-03-02")
    damages = [
        (update(entries).where(entries.c.sequence == 5).values(body=body), "ledger entry 5"),
        (delete(entries).where(entries.c.sequence == 6), "ledger entry 6"),
        (delete(entries).where(entries.c.sequence == len(sample_log().entries) - 1), "missing at its end"),
        (update(log).values(peaks=bytes(32 * len(sample_log().entries).bit_count())), "missing at its end"),
        (update(notes).where(notes.c.size == 8).values(note="12"), "checkpoint: it is not a signed note"),
        (update(entries).where(entries.c.sequence == 5).values(kind="key"), "ledger entry 5"),
        (update(entries).where(entries.c.sequence == 5).values(body=b"[]"), "ledger entry 5"),
        (update(nodes).where(node).values(hash=bytes(32)), "up to entry 5: not what its stored tree says"),
        (delete(nodes).where(node), "up to entry 5: not what its stored tree says"),
        (insert(nodes).values(stray), "nodes over entries that are not there"),
        (update(log).values(newest_utc=None), "of another time"),
        (delete(notes).where(notes.c.size == 8), None),
    ]
    for damage, complaint in damages:
        connection = filled.connect()
        transaction = connection.begin()
        connection.execute(damage)
        if complaint is None:  # an older state of the checkpoints is sound: only a witness can tell
            Ledger(connection, TABLES).check()
        else:
            with pytest.raises(VerificationError, match=complaint):
                Ledger(connection, TABLES).check()
        transaction.rollback()
        connection.close()


def test_a_proof_over_a_node_that_is_gone_is_refused(filled: Engine) -> None:
    with write(filled) as connection:
        connection.execute(delete(TABLES.nodes).where(TABLES.nodes.c.level == 3))
        with pytest.raises(VerificationError, match="has no node 0 of level 3"):
            Ledger(connection, TABLES).inclusion_proof(9, 16)
