"""Databases: migrated when opened, one writer at a time, errors worded for the operator."""

import stat
import threading

import pytest
from sqlalchemy import text

from privacy.errors import ConfigError, Unavailable
from runtime.database import open_database, read, write

MIGRATIONS = "tests.unit.sample_migrations"


@pytest.fixture
def engine(tmp_path):
    engine = open_database(tmp_path / "state.db", MIGRATIONS)
    yield engine
    engine.dispose()


def count(engine):
    with read(engine) as connection:
        return connection.execute(text("select count(*) from notes")).scalar_one()


def add(connection, note="x"):
    connection.execute(text("insert into notes (text) values (:note)"), {"note": note})


def test_a_new_database_is_migrated_private_and_durable(engine, tmp_path):
    assert count(engine) == 0
    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600
    with read(engine) as connection:
        found = {
            name: connection.execute(text(f"pragma {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_opening_again_keeps_what_is_there(engine, tmp_path):
    with write(engine) as connection:
        add(connection)
    again = open_database(tmp_path / "state.db", MIGRATIONS)
    assert count(again) == 1
    again.dispose()


def test_a_block_that_raises_writes_nothing(engine):
    def add_and_fail():
        with write(engine) as connection:
            add(connection)
            raise KeyError

    with pytest.raises(KeyError):
        add_and_fail()
    assert count(engine) == 0


def test_check_then_write_is_one_step(engine):
    """Two threads each add a note only if there is none: BEGIN IMMEDIATE lets one of them see the other's."""
    start = threading.Barrier(2)

    def add_if_none():
        start.wait()
        with write(engine) as connection:
            if connection.execute(text("select count(*) from notes")).scalar_one() == 0:
                add(connection)

    threads = [threading.Thread(target=add_if_none) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(engine) == 1


def test_readers_do_not_wait_for_a_writer(engine):
    with write(engine) as connection:
        add(connection)
        assert count(engine) == 0
    assert count(engine) == 1


def test_a_database_of_a_newer_version_is_left_alone(engine, tmp_path):
    with write(engine) as connection:
        connection.execute(text("update alembic_version set version_num = 'sample_9999'"))
    with pytest.raises(ConfigError, match=r"newer version of Cloister \(schema sample_9999\). Install that version"):
        open_database(tmp_path / "state.db", MIGRATIONS)


def test_what_is_no_database_is_named(tmp_path):
    (tmp_path / "state.db").write_bytes(b"hello" * 1000)
    with pytest.raises(ConfigError, match=r"state.db: is damaged or is no database. Restore"):
        open_database(tmp_path / "state.db", MIGRATIONS)
    with pytest.raises(ConfigError, match=r"No such file or directory. See that .*nowhere exists"):
        open_database(tmp_path / "nowhere" / "state.db", MIGRATIONS)
    with pytest.raises(ConfigError, match="mysql is not supported"):
        open_database("mysql://host/name", MIGRATIONS)
    with pytest.raises(ConfigError, match="cannot be parsed"):
        open_database("://", MIGRATIONS)


def test_a_full_disk_is_named_and_nothing_is_half_done(engine):
    with read(engine) as connection:
        pages = connection.execute(text("pragma page_count")).scalar_one()

    def fill():
        with write(engine) as connection:
            connection.execute(text(f"pragma max_page_count = {pages}"))
            for _ in range(100):
                add(connection, "x" * 4000)

    with pytest.raises(ConfigError, match=r"disk is full.*nothing was half done"):
        fill()
    assert count(engine) == 0


def test_a_read_only_database_is_named(engine):
    with write(engine) as connection:
        connection.execute(text("pragma query_only = on"))
        with pytest.raises(ConfigError, match="read-only or cannot be opened"):
            add(connection)


def test_a_locked_database_can_be_tried_again(engine, tmp_path):
    other = open_database(tmp_path / "state.db", MIGRATIONS)
    with other.connect() as waiting:
        waiting.execution_options(cloister_read_only=True)
        waiting.exec_driver_sql("pragma busy_timeout = 10")
        with write(engine), pytest.raises(Unavailable, match="another process is writing to it"):
            waiting.exec_driver_sql("insert into notes (text) values ('x')")
    other.dispose()
