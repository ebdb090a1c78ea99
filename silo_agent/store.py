"""silo.db: budget, ledger, journal, jobs, datasets and peers, all changed in one transaction or not at all.

SQLite with WAL and synchronous=FULL: what a transaction wrote is on the disk when it ends. The functions that read and
write are in accounts.py, jobs.py, register.py and statements.py; they take the connection of a transaction.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine, insert

from certs.identity import Identity
from privacy.errors import VerificationError
from privacy.ledger.entry import Entry
from privacy.ledger.openings import Opening, committable
from runtime.database import open_database, read, write
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.accounts import all_budgets
from silo_agent.tables import LEDGER, openings

DATABASE = "silo.db"
E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Transaction:
    """One durable step: everything written through it stands, or nothing of it."""

    connection: Connection
    committed: tuple[str, ...] = ()  # texts of which an entry gets a commitment alone

    def record(self, entry: Entry) -> None:
        """Append an entry to the ledger; the texts it commits to are kept beside it."""
        Ledger(self.connection, LEDGER).append(self.with_commitments(entry))

    def with_commitments(self, entry: E) -> E:
        """The entry as it is recorded, its texts kept where it only commits to them."""
        commitments = {}
        for name, text in committable(entry, self.committed).items():
            opening = Opening.of(text, secrets.token_bytes(32))
            self.connection.execute(insert(openings).values(**opening.model_dump()))
            commitments[name] = opening.text
        return entry.model_copy(update=commitments)

    @property
    def ledger(self) -> Ledger:
        """The ledger, within this transaction."""
        return Ledger(self.connection, LEDGER)


class Store:
    """The silo's database. Close it when done."""

    def __init__(self, engine: Engine, committed: tuple[str, ...] = ()) -> None:
        self._engine = engine
        self._committed = committed

    @classmethod
    def open(cls, folder: Path, identity: Identity, committed: tuple[str, ...] = ()) -> Self:
        """Open silo.db, creating or migrating it; the ledger in it must be `identity`'s. Raises ConfigError.

        Of the `committed` texts that people write, entries get a commitment.
        """
        store = cls(open_database(folder / DATABASE, "silo_agent.migrations"), committed)
        try:
            with store.writing() as transaction:
                Ledger.begin(transaction.connection, LEDGER, LogIdentity.of(identity))
        except BaseException:
            store.close()
            raise
        return store

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that no other one, of any process, comes between."""
        with write(self._engine) as connection:
            yield Transaction(connection, self._committed)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view."""
        with read(self._engine) as connection:
            yield connection

    def check(self) -> None:
        """For every start of the daemon: the ledger is whole, and the budgets are what it adds up to.

        Raises VerificationError naming the entry or the population that is not as it was written.
        """
        with self.reading() as connection:
            ledger = Ledger(connection, LEDGER)
            ledger.check()
            recorded = ledger.budgets()
            stored = {state.policy.population: state for state in all_budgets(connection)}
        for population in sorted(recorded.keys() | stored.keys()):
            if recorded.get(population) != stored.get(population):
                raise VerificationError(
                    f"budget of {population}",
                    "is not what the entries of the ledger add up to",
                    "silo.db was altered: restore it from a backup; do not go on with this one.",
                )

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()
