"""A ledger in a database: entries, the Merkle frontier that makes an append cheap, signed checkpoints.

Everything happens inside the caller's transaction, so that budget, journal and ledger are committed together or not at
all. Both programs keep one ledger in their database; its tables join theirs through `ledger_tables`.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from certs.times import utc_text
from privacy.canonical import DIGEST_BYTES
from privacy.errors import ConfigError, InternalError, VerificationError
from privacy.ledger.checkpoint import Checkpoint, log_origin, open_checkpoint, sign_checkpoint
from privacy.ledger.clock import check_order
from privacy.ledger.entry import Entry, decode_entry, encode_entry
from privacy.ledger.merkle import Frontier, leaf_hash
from privacy.ledger.replay import Budgets, budgets_of

_BATCH = 500


@dataclass(frozen=True)
class LedgerTables:
    """The tables of one ledger."""

    log: Table
    entries: Table
    checkpoints: Table


@dataclass(frozen=True)
class LogIdentity:
    """Whose log it is: the raw Ed25519 key that signs its checkpoints, and the certificate that says so, if any."""

    federation: str
    institution: str
    public_key: bytes
    certificate_pem: bytes | None = None

    @property
    def origin(self) -> str:
        """The log's name in its checkpoints."""
        return log_origin(self.federation, self.institution)


def ledger_tables(metadata: MetaData) -> LedgerTables:
    """Define the ledger's tables in a program's metadata."""
    log = Table(
        "ledger_log",
        metadata,
        Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        Column("federation", String(63), nullable=False),
        Column("institution", String(63), nullable=False),
        Column("public_key", LargeBinary(32), nullable=False),
        Column("certificate_pem", LargeBinary, nullable=True),
        Column("size", BigInteger, nullable=False),
        Column("peaks", LargeBinary, nullable=False),  # the frontier's hashes, one after the other
    )
    entries = Table(
        "ledger_entries",
        metadata,
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("kind", String(32), nullable=False, index=True),
        Column("leaf_hash", LargeBinary(32), nullable=False),
        Column("body", LargeBinary, nullable=False),
    )
    checkpoints = Table(
        "ledger_checkpoints",
        metadata,
        Column("size", BigInteger, primary_key=True, autoincrement=False),
        Column("signed_utc", String(32), nullable=False),
        Column("note", Text, nullable=False),
    )
    return LedgerTables(log, entries, checkpoints)


class Ledger:
    """The ledger of one database, for as long as one transaction lasts.

    Raises ConfigError if the database has no ledger yet: `Ledger.begin` starts one.
    """

    def __init__(self, connection: Connection, tables: LedgerTables) -> None:
        row = connection.execute(select(tables.log)).one_or_none()
        if row is None:
            raise ConfigError("ledger", "this database has none yet", "Start the program once, or name another folder.")
        self._connection = connection
        self._tables = tables
        self.identity = LogIdentity(row.federation, row.institution, row.public_key, row.certificate_pem)

    @classmethod
    def begin(cls, connection: Connection, tables: LedgerTables, identity: LogIdentity) -> "Ledger":
        """The database's ledger, started if there is none. Raises ConfigError if it is somebody else's.

        A renewed certificate for the same key replaces the stored one.
        """
        if connection.execute(select(func.count()).select_from(tables.log)).scalar_one() == 0:
            connection.execute(insert(tables.log).values(id=1, size=0, peaks=b"", **vars(identity)))
        ledger = cls(connection, tables)
        kept = ledger.identity
        if (kept.origin, kept.public_key) != (identity.origin, identity.public_key):
            raise ConfigError(
                f"ledger of {kept.origin}",
                f"the identity at hand is another one ({identity.origin}, key {identity.public_key.hex()[:16]})",
                "Use the state folder and the identity key that belong together; a ledger never changes its key.",
            )
        if identity.certificate_pem not in (None, kept.certificate_pem):
            connection.execute(update(tables.log).values(certificate_pem=identity.certificate_pem))
            ledger.identity = identity
        return ledger

    @property
    def size(self) -> int:
        """The number of entries."""
        return self._frontier().size

    def append(self, entry: Entry) -> int:
        """Put an entry at the end; its `sequence` is set to its place, which is returned.

        Raises InternalError for an entry of another institution, or if the log moved meanwhile; ConfigError if the
        newest entry is of a later time, since nobody could verify a log with this one in it.
        """
        if entry.institution != self.identity.institution:
            raise InternalError("ledger entry", f"is of {entry.institution}", f"Report this: {self.identity.origin}.")
        frontier = self._frontier()
        self._check_clock(frontier.size, entry.utc)
        body = encode_entry(entry.model_copy(update={"sequence": frontier.size}))
        hashed, kind = leaf_hash(body), decode_entry(body).kind
        row = {"sequence": frontier.size, "kind": kind, "leaf_hash": hashed, "body": body}
        self._connection.execute(insert(self._tables.entries).values(**row))
        longer, log = frontier.append(hashed), self._tables.log
        moved = self._connection.execute(
            update(log).where(log.c.size == frontier.size).values(size=longer.size, peaks=b"".join(longer.peaks))
        )
        if moved.rowcount != 1:
            raise InternalError("ledger", "two writers appended at once", "Run one program per state folder.")
        return frontier.size

    def checkpoint(self, sign: Callable[[bytes], bytes], now: datetime) -> str:
        """The signed checkpoint over all entries, made and stored unless there is one already.

        `sign` is Ed25519 by the log's key. Raises InternalError for an empty log or a wrong key.
        """
        frontier, table = self._frontier(), self._tables.checkpoints
        if frontier.size == 0:
            raise InternalError("checkpoint", "the ledger has no entries", "Report this.")
        note = self._connection.execute(select(table.c.note).where(table.c.size == frontier.size)).scalar_one_or_none()
        if note is None:
            checkpoint = Checkpoint(self.identity.origin, frontier.size, frontier.root())
            note = sign_checkpoint(checkpoint, self.identity.public_key, sign)
            row = {"size": frontier.size, "signed_utc": utc_text(now), "note": note}
            self._connection.execute(insert(table).values(**row))
        return str(note)

    def entries(self, since: int = 0, until: int | None = None) -> Iterator[bytes]:
        """The canonical bytes of the entries from `since` on, up to and without `until`."""
        table = self._tables.entries
        end = self.size if until is None else min(until, self.size)
        for start in range(since, end, _BATCH):
            stop = min(start + _BATCH, end)
            query = select(table.c.body).where(table.c.sequence >= start, table.c.sequence < stop)
            yield from self._connection.execute(query.order_by(table.c.sequence)).scalars()

    def entries_of(self, kinds: Collection[str]) -> Iterator[bytes]:
        """The canonical bytes of the entries of these kinds, oldest first."""
        table = self._tables.entries
        query = select(table.c.body).where(table.c.kind.in_(kinds)).order_by(table.c.sequence)
        yield from self._connection.execute(query).scalars()

    def leaf_hashes(self, until: int) -> tuple[bytes, ...]:
        """The stored leaf hashes of the first `until` entries."""
        table = self._tables.entries
        query = select(table.c.leaf_hash).where(table.c.sequence < until).order_by(table.c.sequence)
        return tuple(self._connection.execute(query).scalars())

    def notes(self) -> tuple[str, ...]:
        """The signed checkpoints, oldest first."""
        table = self._tables.checkpoints
        return tuple(self._connection.execute(select(table.c.note).order_by(table.c.size)).scalars())

    @property
    def covered(self) -> int:
        """How many entries the newest signed checkpoint covers."""
        newest = select(func.max(self._tables.checkpoints.c.size))
        return self._connection.execute(newest).scalar_one() or 0

    def budgets(self) -> Budgets:
        """The budgets that the entries add up to."""
        return budgets_of(decode_entry(body) for body in self.entries())

    def check(self) -> None:
        """Recompute everything the database says about the tree from the entries alone; for every start-up.

        Raises VerificationError naming the first entry, or the checkpoint, that is not as it was written.
        """
        stored, next_step = self._frontier(), "Restore the state folder from a backup; do not go on with this one."
        signed = {c.size: c for c in (self._open(note) for note in self.notes())}
        hashes, frontier = iter(self.leaf_hashes(stored.size)), Frontier()
        for sequence, body in enumerate(self.entries()):
            leaf = leaf_hash(body)
            if decode_entry(body).sequence != sequence or next(hashes, None) != leaf:
                raise VerificationError(f"ledger entry {sequence}", "it is not the one that was written", next_step)
            frontier = frontier.append(leaf)
            checkpoint = signed.pop(frontier.size, None)
            if checkpoint is not None and checkpoint.root != frontier.root():
                raise VerificationError(f"ledger up to entry {sequence}", "not what its checkpoint says", next_step)
        if frontier != stored or signed:
            raise VerificationError("ledger", "entries are missing at its end", next_step)

    def _check_clock(self, size: int, utc: str) -> None:
        table = self._tables.entries
        body = self._connection.execute(select(table.c.body).where(table.c.sequence == size - 1)).scalar_one_or_none()
        if body is None:
            return
        newest = decode_entry(body).utc
        try:
            check_order(newest, utc)
        except VerificationError as error:
            why = f"by this machine's clock it is {utc}, and its newest entry is of {newest}"
            raise ConfigError(f"ledger of {self.identity.origin}", why, "Set the clock (timedatectl).") from error

    def _open(self, note: str) -> Checkpoint:
        return open_checkpoint(note, self.identity.origin, self.identity.public_key)

    def _frontier(self) -> Frontier:
        log = self._tables.log
        row = self._connection.execute(select(log.c.size, log.c.peaks)).one()
        peaks = [row.peaks[start : start + DIGEST_BYTES] for start in range(0, len(row.peaks), DIGEST_BYTES)]
        return Frontier(row.size, tuple(peaks))
