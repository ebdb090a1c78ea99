"""Databases: SQLite that survives a power cut, or PostgreSQL by URL; migrated when opened.

SQLite runs with WAL and synchronous=FULL, and every transaction that may write begins with BEGIN IMMEDIATE, so that
check-then-write is one step against every other process. What the database reports about the machine (disk full,
read-only, locked) comes out of SQLAlchemy as ConfigError or Unavailable.
"""

import contextlib
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from privacy.errors import CloisterError, ConfigError, Unavailable

BUSY_TIMEOUT_MS = 10_000
_READ_ONLY = "cloister_read_only"


def open_database(url: str | Path, *migrations: str) -> Engine:
    """An engine on a database whose schema is current.

    `url` is a path (SQLite) or an SQLAlchemy URL. Each of `migrations` is a package with a folder `versions` of Alembic
    revisions, such as "silo_agent.migrations". Raises ConfigError when the database is damaged, read-only, of a newer
    version of Cloister, or cannot be opened; Unavailable when a server does not answer.
    """
    parsed = _parse(url)
    engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _server(parsed)
    try:
        if migrations:
            _upgrade(engine, migrations)
        else:
            with read(engine):
                pass
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextlib.contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write: committed, durably, when the block ends, rolled back when it raises."""
    with _in_time(engine), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state and waits for no writer."""
    with _in_time(engine), engine.connect() as connection:
        reading = connection.execution_options(**{_READ_ONLY: True})
        with reading.begin():
            yield reading


@contextlib.contextmanager
def _in_time(engine: Engine) -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        why = "all connections to it are in use"
        raise Unavailable(f"database {engine.url.host}", why, "Run it again; see what keeps the server.") from error


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            "database URL", "cannot be parsed", "Use a path, or postgresql+psycopg://host/name."
        ) from error
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError(
            "database URL", f"{parsed.get_backend_name()} is not supported", "Use SQLite (a path) or PostgreSQL."
        )
    return parsed


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        _create_private(Path(url.database))
    wait = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    engine = create_engine(url, connect_args=wait, max_overflow=-1)  # a file has no limit

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: object) -> None:  # noqa: ANN401, ARG001 - a DBAPI connection
        connection.isolation_level = None  # transactions begin where we say so, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        reading = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    _word_errors(engine, url)
    return engine


def _server(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=True, isolation_level="SERIALIZABLE")
    except (ImportError, SQLAlchemyError) as error:
        raise ConfigError(
            f"database {url.host}", "its driver is not installed", "Run `pip install 'psycopg[binary]'`."
        ) from error
    _word_errors(engine, url)
    return engine


def _create_private(path: Path) -> None:
    """The file, mode 0600, before SQLite makes it with the process's own mask; WAL and shm files take its mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(
            f"database {path}",
            error.strerror or type(error).__name__,
            f"See that {path.parent} exists and that this account may write there.",
        ) from error


def _word_errors(engine: Engine, url: URL) -> None:
    @event.listens_for(engine, "handle_error", retval=True)
    def _failed(context: ExceptionContext) -> CloisterError | None:
        return _worded(url, str(context.original_exception))


def _worded(url: URL, text: str) -> CloisterError | None:
    what = f"database {url.database if url.get_backend_name() == 'sqlite' else url.host}"
    match text.lower():
        case t if "disk is full" in t or "no space left" in t or "disk i/o error" in t:
            return ConfigError(
                what, "the disk is full or failing", "Free space and start again; nothing was half done."
            )
        case t if "readonly" in t or "unable to open" in t:
            return ConfigError(what, "is read-only or cannot be opened", "Give this account the right to write it.")
        case t if "not a database" in t or "malformed" in t:
            return ConfigError(what, "is damaged or is no database", "Restore it from a backup.")
        case t if "database is locked" in t or "could not serialize" in t:
            return Unavailable(
                what, "another process is writing to it", "Run it again; if it stays, stop that process."
            )
        case t if "connection refused" in t or "could not connect" in t or "connection failed" in t:
            return Unavailable(what, "the server does not answer", "Start it, or correct the database URL.")
        case _:
            return None


def _upgrade(engine: Engine, migrations: tuple[str, ...]) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("runtime.schema")))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(files(package) / "versions") for package in migrations))
    script = ScriptDirectory.from_config(config)
    with read(engine) as connection:
        current = MigrationContext.configure(connection).get_current_heads()
    _check_known(script, current, engine.url)
    if set(current) == set(script.get_heads()):
        return
    try:
        with write(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")
    except OperationalError as error:
        raise ConfigError(
            f"database {engine.url.database}",
            "its tables could not be brought to this version; it is as it was",
            "Restore a backup, or report this with the software version.",
        ) from error


def _check_known(script: ScriptDirectory, current: tuple[str, ...], url: URL) -> None:
    for revision in current:
        try:
            script.get_revision(revision)
        except CommandError as error:
            raise ConfigError(
                f"database {url.database}",
                f"was written by a newer version of Cloister (schema {revision})",
                "Install that version again, or restore the backup made before the upgrade.",
            ) from error
