"""What a witness keeps, in its program's database and its caller's transaction (privacy.ledger.witness decides)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy import Connection, delete, func, insert, select, tuple_

from certs.times import parse_utc, utc_text
from privacy.ledger.checkpoint import Checkpoint, parse_note
from privacy.ledger.cosignature import Cosignature, with_lines
from runtime.witness_tables import WitnessTables

MOST_CONTRADICTIONS = 16
MOST_LINES = 150  # of at most 400 characters each: they fit into a note


@dataclass(frozen=True)
class Contradiction:
    """Two checkpoints that one log's owner signed, of which neither continues the other."""

    log: str
    first: str
    second: str
    noticed_utc: str


class WitnessBook:
    """One program's memory of logs, its own among them, for as long as one transaction lasts."""

    def __init__(self, connection: Connection, tables: WitnessTables) -> None:
        self._db = connection
        self._tables = tables

    def note(self, log: str) -> str | None:
        """The largest checkpoint that was seen of a log, as its owner signed it."""
        seen = self._tables.seen
        return self._db.execute(select(seen.c.note).where(seen.c.log == log)).scalar_one_or_none()

    def seen(self, log: str) -> Checkpoint | None:
        """What that checkpoint says; it was verified before it was kept."""
        note = self.note(log)
        return None if note is None else parse_note(note).checkpoint

    def notes(self) -> dict[str, str]:
        """The largest checkpoints that were seen, by log."""
        return {row.log: row.note for row in self._db.execute(select(self._tables.seen))}

    def logs(self) -> tuple[str, ...]:
        """Every log of which something was seen."""
        return tuple(self._db.execute(select(self._tables.seen.c.log).order_by(self._tables.seen.c.log)).scalars())

    def saw(self, log: str, note: str) -> None:
        """Remember a checkpoint in the place of the one before."""
        seen = self._tables.seen
        self._db.execute(delete(seen).where(seen.c.log == log))
        self._db.execute(insert(seen).values(log=log, note=note))

    def contradict(self, log: str, second: str, now: datetime) -> None:
        """Keep a checkpoint that contradicts what was seen; once, and of one log MOST_CONTRADICTIONS: one proves it."""
        table, first = self._tables.contradictions, self.note(log) or ""
        known = select(func.count()).select_from(table)
        again = self._db.execute(known.where(table.c.second == second)).scalar_one()
        if not again and self._db.execute(known.where(table.c.log == log)).scalar_one() < MOST_CONTRADICTIONS:
            row = {"log": log, "first": first, "second": second, "noticed_utc": utc_text(now)}
            self._db.execute(insert(table).values(**row))

    def contradictions(self) -> tuple[Contradiction, ...]:
        """All that were noticed, oldest first."""
        table = self._tables.contradictions
        rows = self._db.execute(select(table).order_by(table.c.id))
        return tuple(Contradiction(row.log, row.first, row.second, row.noticed_utc) for row in rows)

    def cosigned(self, log: str, size: int, line: str, cosignature: Cosignature) -> None:
        """Keep a cosignature that was verified, in the place of the same witness' one of this size."""
        table, witness = self._tables.cosignatures, cosignature.witness
        where = (table.c.log == log) & (table.c.size == size) & (table.c.witness == witness)
        self._db.execute(delete(table).where(where))
        row = {"size": size, "witness": witness, "line": line, "cosigned_utc": utc_text(cosignature.utc)}
        self._db.execute(insert(table).values(log=log, **row))

    def cosigned_at(self, witness: str, sizes: Mapping[str, int]) -> dict[str, datetime]:
        """Of these logs, each with a size, the ones of which a witness cosigned just that, and when it last did."""
        table = self._tables.cosignatures
        query = select(table.c.log, table.c.cosigned_utc).where(table.c.witness == witness)
        rows = self._db.execute(query.where(tuple_(table.c.log, table.c.size).in_(list(sizes.items()))))
        return {row.log: parse_utc(row.cosigned_utc) for row in rows}

    def when(self, log: str, witness: str) -> tuple[int, datetime] | None:
        """The largest size of a log that a witness cosigned, and when it last did."""
        table = self._tables.cosignatures
        query = select(table.c.size, table.c.cosigned_utc).where(table.c.log == log, table.c.witness == witness)
        row = self._db.execute(query.order_by(table.c.size.desc()).limit(1)).one_or_none()
        return None if row is None else (row.size, parse_utc(row.cosigned_utc))

    def cosigners(self, log: str, at_least: int, between: tuple[datetime, datetime] | None = None) -> frozenset[str]:
        """Who cosigned so many entries of a log or more; if times are given, within these."""
        table = self._tables.cosignatures
        query = select(table.c.witness).where(table.c.log == log, table.c.size >= at_least).distinct()
        if between is not None:
            query = query.where(table.c.cosigned_utc.between(utc_text(between[0]), utc_text(between[1])))
        return frozenset(self._db.execute(query).scalars())

    def signers(self, log: str) -> frozenset[str]:
        """Who ever cosigned a log."""
        table = self._tables.cosignatures
        query = select(table.c.witness).where(table.c.log == log).distinct()
        return frozenset(self._db.execute(query).scalars())

    def with_cosignatures(self, note: str) -> str:
        """A log's note with the cosignatures that are kept of its size, by witness; MOST_LINES of them at most."""
        said, table = parse_note(note).checkpoint, self._tables.cosignatures
        query = select(table.c.line).where(table.c.log == said.origin, table.c.size == said.size)
        return with_lines(note, list(self._db.execute(query.order_by(table.c.witness).limit(MOST_LINES)).scalars()))

    def put_key(self, witness: str, identity_pem: bytes) -> None:
        """Keep the certificate of a witness, verified before.

        If it is of another key than the one before, what the witness signed with that one is dropped: nobody could
        verify it any more. So this comes before `cosigned`.
        """
        keys, table = self._tables.keys, self._tables.cosignatures
        before = self._db.execute(select(keys.c.identity_pem).where(keys.c.witness == witness)).scalar_one_or_none()
        if before is not None and raw_key(before) != raw_key(identity_pem):
            self._db.execute(delete(table).where(table.c.witness == witness))
        self._db.execute(delete(keys).where(keys.c.witness == witness))
        self._db.execute(insert(keys).values(witness=witness, identity_pem=identity_pem))

    def keys(self) -> dict[str, bytes]:
        """The certificates of all witnesses, PEM, by name."""
        keys = self._tables.keys
        return {row.witness: row.identity_pem for row in self._db.execute(select(keys).order_by(keys.c.witness))}


def raw_key(identity_pem: bytes) -> bytes:
    """The raw Ed25519 key of an identity certificate that was verified before."""
    return load_pem_x509_certificate(identity_pem).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
