"""A ledger in a database: entries, the tree over them, signed checkpoints.

Everything happens inside the caller's transaction, so that budget, journal and ledger are committed together or not at
all. Both programs keep one ledger in their database; its tables join theirs through `ledger_tables`. An append writes
its entry and the nodes that it completes, one on average; a proof reads about two nodes a level, each by its key.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, false, func, insert, or_, select, update

from certs.identity import Identity
from certs.times import utc_text
from privacy.canonical import DIGEST_BYTES
from privacy.errors import ConfigError, InternalError, VerificationError
from privacy.ledger import merkle
from privacy.ledger.checkpoint import Checkpoint, log_origin, open_checkpoint, sign_checkpoint
from privacy.ledger.clock import check_order, instant
from privacy.ledger.codec import decode_entry, encode_entry
from privacy.ledger.entry import Entry, KeyRotationEntry
from privacy.ledger.keys import KeyBook, KeyChain
from privacy.ledger.merkle import Frontier, Growth, Node, leaf_hash
from privacy.ledger.replay import Budgets, budgets_of
from runtime.ledger_tables import LedgerTables

_BATCH = 500  # rows read at once
_RENEW = "docs/how-to/rotate-certificates.md"
_AHEAD = (
    "a clock was ahead when that entry was written: until then nothing can be recorded under this name. Wait, or go on "
    "under a new name: docs/how-to/run-a-silo.md."
)
_RESTORE = "Restore the state folder from a backup; do not go on with this one."


@dataclass(frozen=True)
class LogIdentity:
    """Whose log it is: the raw Ed25519 key that signs its checkpoints now, and the certificate that says so, if any."""

    federation: str
    institution: str
    public_key: bytes
    certificate_pem: bytes | None = None

    @classmethod
    def of(cls, identity: Identity) -> "LogIdentity":
        """That of the party which signs with this identity."""
        party = identity.party
        return cls(party.federation, party.name, identity.public_key, identity.certificate_pem)

    @property
    def origin(self) -> str:
        """The log's name in its checkpoints."""
        return log_origin(self.federation, self.institution)


class Ledger:
    """The ledger of one database, for as long as one transaction lasts.

    Raises ConfigError if the database has no ledger yet: `Ledger.begin` starts one.
    """

    def __init__(self, connection: Connection, tables: LedgerTables) -> None:
        log = tables.log.c
        columns = (log.federation, log.institution, log.public_key, log.certificate_pem)
        row = connection.execute(select(*columns)).one_or_none()
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
                "Use the state folder and the identity key that belong together. If `cloister silo rotate-key` (or "
                "`cloister aggregator rotate-key`) was interrupted here, run it again.",
            )
        if identity.certificate_pem not in (None, kept.certificate_pem):
            connection.execute(update(tables.log).values(certificate_pem=identity.certificate_pem))
            ledger.identity = identity
        return ledger

    def rotate(self, entry: KeyRotationEntry, new: LogIdentity, sign: Callable[[bytes], bytes], now: datetime) -> None:
        """Put a rotation at the end, and sign for it by the new key, which signs all later checkpoints.

        Raises VerificationError for an entry that is not from this log's key to the new one, signed by both, at this
        place; and as `append_all` and `checkpoint`.
        """
        placed = entry.model_copy(update={"sequence": self.size})
        book = KeyBook(self.identity.origin, (self.identity.public_key, new.public_key))
        book.read(placed)
        book.finish()
        self.append(placed)
        values = {"public_key": new.public_key, "certificate_pem": new.certificate_pem}
        self._connection.execute(update(self._tables.log).values(**values))
        self.identity = new
        self.checkpoint(sign, now)

    def keys(self) -> KeyChain:
        """All keys that sign this log's checkpoints, each for its sizes."""
        return KeyChain.of(self.rotations(), self.identity.public_key)

    def rotations(self) -> tuple[KeyRotationEntry, ...]:
        """The log's changes of key, oldest first."""
        found = (decode_entry(body) for body in self.entries_of(("key-rotation",)))
        return tuple(entry for entry in found if isinstance(entry, KeyRotationEntry))

    @property
    def size(self) -> int:
        """The number of entries."""
        return self._frontier().size

    def append(self, entry: Entry) -> int:
        """Put an entry at the end; its `sequence` is set to its place, which is returned. Raises as `append_all`."""
        return self.append_all([entry])

    def append_all(self, entries: Sequence[Entry]) -> int:
        """Put entries at the end, one after the other; returns the place of the first.

        Raises, before it has written any of them, InternalError for one of another institution or if the log moved
        meanwhile; ProtocolError for one that would not decode; ConfigError if one before is of a later time, by more
        than CLOCK_TOLERANCE, or the log's certificate is not valid at its time: nobody could verify a log with this one
        in it.
        """
        validity = _validity(self.identity.certificate_pem)
        growth, latest = Growth(self._frontier()), self.latest_utc
        size, rows, nodes = growth.size, [], []
        for entry in entries:
            place, latest = growth.size, self._check_appendable(latest, validity, entry)
            body = encode_entry(entry.model_copy(update={"sequence": place}))
            leaf = leaf_hash(body)
            rows.append({"sequence": place, "kind": decode_entry(body).kind, "leaf_hash": leaf, "body": body})
            nodes += [
                {"level": level, "position": place >> level, "hash": node}
                for level, node in enumerate(growth.append(leaf), 1)
            ]
        self._move(size, growth.frontier(), latest)
        for table, new in ((self._tables.entries, rows), (self._tables.nodes, nodes)):
            if new:
                self._connection.execute(insert(table), new)
        return size

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
        return (row.body for row in self._paged(select(table.c.body), table.c.sequence, since, end))

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

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """That entry `index` is in the tree of the first `size` entries; for `merkle.verify_inclusion`. O(log size).

        Raises InternalError if there is no such entry or no such tree.
        """
        self._require_size(size)
        return merkle.inclusion_proof(self._read_nodes, size, index)

    def consistency_proof(self, old_size: int, size: int) -> tuple[bytes, ...]:
        """That the tree of `size` entries begins with that of `old_size`; for `merkle.verify_consistency`. O(log size).

        Raises InternalError unless 0 < old_size <= size <= the log's.
        """
        self._require_size(size)
        return merkle.consistency_proof(self._read_nodes, old_size, size)

    def root_at(self, size: int) -> bytes:
        """The root of the tree of the first `size` entries. O(log size).

        Raises InternalError if there is no such tree.
        """
        self._require_size(size)
        return merkle.root_at(self._read_nodes, size)

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
        """Recompute everything the database says about the tree from the entries alone; for every start-up. O(size).

        Raises VerificationError naming the first entry, or the checkpoint, that is not as it was written.
        """
        stored, growth, latest = self._frontier(), Growth(), ""
        signed = self.checkpoints()
        nodes = [self._nodes(level, stored.size) for level in range(1, stored.size.bit_length())]
        table = self._tables.entries
        columns = select(table.c.kind, table.c.leaf_hash, table.c.body)
        for sequence, row in enumerate(self._paged(columns, table.c.sequence, 0, stored.size)):
            leaf = leaf_hash(row.body)
            entry = None if leaf != row.leaf_hash else decode_entry(row.body)
            if entry is None or (entry.sequence, entry.kind) != (sequence, row.kind):
                raise VerificationError(f"ledger entry {sequence}", "it is not the one that was written", _RESTORE)
            latest = max(latest, entry.utc)
            completed = growth.append(leaf)
            if any(next(kept, None) != node for kept, node in zip(nodes, completed, strict=False)):
                raise VerificationError(f"ledger up to entry {sequence}", "not what its stored tree says", _RESTORE)
            checkpoint = signed.pop(growth.size, None)
            if checkpoint is not None and checkpoint.root != growth.root():
                raise VerificationError(f"ledger up to entry {sequence}", "not what its checkpoint says", _RESTORE)
        if growth.frontier() != stored or signed:
            raise VerificationError("ledger", "entries are missing at its end", _RESTORE)
        self._check_rest(stored, latest or None)

    def _check_rest(self, stored: Frontier, latest: str | None) -> None:
        """What no entry has shown to be wrong: nodes that are too many, the latest time."""
        kept = self._connection.execute(select(func.count()).select_from(self._tables.nodes)).scalar_one()
        if kept != stored.size - stored.size.bit_count():
            raise VerificationError("ledger", "its stored tree has nodes over entries that are not there", _RESTORE)
        if self.latest_utc != latest:
            raise VerificationError("ledger", "its latest entry is of another time than it keeps", _RESTORE)

    def _check_appendable(self, latest: str | None, validity: tuple[datetime, datetime] | None, entry: Entry) -> str:
        """The latest time with this entry."""
        origin = self.identity.origin
        if entry.institution != self.identity.institution:
            raise InternalError("ledger entry", f"is of {entry.institution}", f"Report this: {origin}.")
        if validity is not None and not validity[0] <= instant(entry.utc) <= validity[1]:
            begin, end = (utc_text(moment) for moment in validity)
            why = f"by this machine's clock it is {entry.utc}, and its certificate is valid from {begin} to {end}"
            step = "Nothing was written. Set the clock if it is wrong (timedatectl); else renew the certificate."
            raise ConfigError(f"ledger of {origin}", why, f"{step} {_RENEW}")
        try:
            return check_order(latest, entry.utc)
        except VerificationError as error:
            why = f"by this machine's clock it is {entry.utc}, and its latest entry is of {latest or 'no time'}"
            step = f"Set the clock if it is behind (timedatectl). If it is right, {_AHEAD}"
            if validity is not None and latest is not None and instant(latest) > validity[1]:
                why = f"it is {entry.utc}, and its latest entry is of {latest}, after its certificate ends"
                step = f"Then {_AHEAD}"
            raise ConfigError(f"ledger of {origin}", why, step) from error

    def _move(self, size: int, longer: Frontier, latest: str | None) -> None:
        """Note that the log was of this size and is longer now."""
        log = self._tables.log
        values = {"size": longer.size, "peaks": b"".join(longer.peaks), "newest_utc": latest}
        if self._connection.execute(update(log).where(log.c.size == size).values(**values)).rowcount != 1:
            raise InternalError("ledger", "two writers appended at once", "Run one program per state folder.")

    def _require_size(self, size: int) -> None:
        if size > self.size:
            raise InternalError("ledger proof", f"there is no tree of {size} entries", "Report this.")

    def _read_nodes(self, wanted: Sequence[Node]) -> list[bytes]:
        """Nodes of the tree, by their keys."""
        entries, nodes = self._tables.entries.c, self._tables.nodes.c
        places = [index for level, index in wanted if level == 0]
        leaves = select(entries.sequence, entries.leaf_hash).where(entries.sequence.in_(places))
        keys = [and_(nodes.level == level, nodes.position == index) for level, index in wanted if level]
        above = select(nodes.level, nodes.position, nodes.hash).where(or_(false(), *keys))
        found = {(0, place): leaf for place, leaf in self._connection.execute(leaves)}
        found |= {(level, index): node for level, index, node in self._connection.execute(above)}
        for level, index in wanted:
            if (level, index) not in found:
                raise VerificationError("ledger", f"its stored tree has no node {index} of level {level}", _RESTORE)
        return [found[node] for node in wanted]

    def _nodes(self, level: int, size: int) -> Iterator[bytes]:
        """The stored nodes of a level, of the tree over so many entries."""
        table = self._tables.nodes
        query = select(table.c.hash).where(table.c.level == level)
        return (row.hash for row in self._paged(query, table.c.position, 0, size >> level))

    def _paged(self, query: Select[Any], key: ColumnElement[int], begin: int, end: int) -> Iterator[Row[Any]]:
        """The rows whose key is in a range, in its order."""
        for start in range(begin, end, _BATCH):
            page = query.where(key >= start, key < min(start + _BATCH, end)).order_by(key)
            yield from self._connection.execute(page)

    def checkpoints(self) -> dict[int, Checkpoint]:
        """What the signed checkpoints say, by size. Raises VerificationError for one not by the key of its place."""
        keys, table = self.keys(), self._tables.checkpoints
        rows = self._connection.execute(select(table.c.size, table.c.note))
        opened = (open_checkpoint(row.note, self.identity.origin, keys.at(row.size)) for row in rows)
        return {checkpoint.size: checkpoint for checkpoint in opened}

    @property
    def latest_utc(self) -> str | None:
        """The latest time that an entry states."""
        latest: str | None = self._connection.execute(select(self._tables.log.c.newest_utc)).scalar_one()
        return latest

    def _frontier(self) -> Frontier:
        log = self._tables.log
        row = self._connection.execute(select(log.c.size, log.c.peaks)).one()
        peaks = [row.peaks[start : start + DIGEST_BYTES] for start in range(0, len(row.peaks), DIGEST_BYTES)]
        return Frontier(row.size, tuple(peaks))


def _validity(certificate_pem: bytes | None) -> tuple[datetime, datetime] | None:
    """From when to when an identity certificate is valid; None without one."""
    if not certificate_pem:
        return None
    certificate = load_pem_x509_certificate(certificate_pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc
