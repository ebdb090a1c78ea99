"""What the aggregator remembers: rows in, rows out. One `Transaction` is one durable step; nothing is half written.

Statements are kept once a (job, round, kind, signer), byte for byte, so that a repeat is known from a contradiction.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from cloister.wire import JobPhase, RoundPhase
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from aggregator.tables import (
    JOBS,
    MAILS,
    MEMBERS,
    ROUNDS,
    STATEMENTS,
    UPLOADS,
)
from certs.names import Role
from privacy.errors import ProtocolError
from privacy.statement import Signed
from runtime.database import open_database, read, write


class Kind(StrEnum):
    """What a stored statement is. One of each a round and signer."""

    JOB_JOIN = "job-join"
    JOB_REFUSAL = "job-refusal"
    KEY_DEAL = "key-deal"
    ROUND_JOIN = "round-join"
    WITHDRAWAL = "withdrawal"
    HEADER = "header"
    COMMIT = "commit"
    FINGERPRINT = "fingerprint"
    CONSENT = "consent"
    RELEASE = "release"
    APPLIED = "applied"


@dataclass(frozen=True)
class JobRow:
    """A job as stored."""

    job: bytes
    name: str
    plan: bytes
    phase: JobPhase
    reason: str
    roll: tuple[str, ...] | None
    deadline_utc: datetime | None
    submitted_by: str
    submitted_utc: datetime
    closed_utc: datetime | None
    forgotten: bool


@dataclass(frozen=True)
class RoundRow:
    """A round as stored."""

    round: int
    phase: RoundPhase
    participants: tuple[str, ...]
    adapter: bytes
    result: bytes | None
    certified: bool
    reason: str
    deadline_utc: datetime | None
    opened_utc: datetime
    closed_utc: datetime | None
    seconds: float
    aggregation_ns: int


@dataclass(frozen=True)
class MemberRow:
    """An enrolled party."""

    role: Role
    name: str
    identity_key: bytes
    identity_pem: bytes


class Transaction:
    """Reads and writes of one durable step."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    @property
    def connection(self) -> Connection:
        """For the ledger, which is written in the same transaction."""
        return self._db

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def add_job(self, row: JobRow) -> None:
        """A new job. Its digest must be new."""
        values = {name: getattr(row, name) for name in ("job", "name", "plan", "reason", "submitted_by", "forgotten")}
        times = {"deadline_utc": _text(row.deadline_utc), "submitted_utc": _text(row.submitted_utc)}
        self._db.execute(insert(JOBS).values(phase=int(row.phase), roll=None, closed_utc=None, **values, **times))

    def set_job(
        self, job: bytes, phase: JobPhase, reason: str, deadline_utc: datetime | None, closed_utc: datetime | None
    ) -> None:
        """Where the job stands now."""
        values = {"deadline_utc": _text(deadline_utc), "closed_utc": _text(closed_utc)}
        self._db.execute(update(JOBS).where(JOBS.c.job == job).values(phase=int(phase), reason=reason, **values))

    def set_roll(self, job: bytes, members: Sequence[str]) -> None:
        """Who is in the roll; set again when a dealer leaves it."""
        self._db.execute(update(JOBS).where(JOBS.c.job == job).values(roll=json.dumps(list(members))))

    def set_forgotten(self, job: bytes) -> None:
        """The job's blobs are gone."""
        self._db.execute(update(JOBS).where(JOBS.c.job == job).values(forgotten=True))

    def job(self, job: bytes) -> JobRow | None:
        """One job."""
        found = self._db.execute(select(JOBS).where(JOBS.c.job == job)).first()
        return None if found is None else _job(found)

    def jobs(self) -> tuple[JobRow, ...]:
        """All jobs, oldest first."""
        rows = self._db.execute(select(JOBS).order_by(JOBS.c.submitted_utc, JOBS.c.job))
        return tuple(_job(row) for row in rows)

    # -- statements ----------------------------------------------------------------------------------------------------

    def once(self, job: bytes, number: int, kind: Kind, signer: str, signed: Signed, now: datetime) -> bool:
        """Store a statement that may be made once. True if it is new, False if these very bytes are known.

        Raises ProtocolError, naming signer and kind, if other bytes are known: the signer contradicts itself.
        """
        known = self.statement(job, number, kind, signer)
        if known is None:
            keys = {"job": job, "round": number, "kind": str(kind), "signer": signer}
            values = {"body": signed.body, "signature": signed.signature, "received_utc": _text(now)}
            self._db.execute(insert(STATEMENTS).values(**keys, **values))
            return True
        if known != signed:
            about = f" for round {number}" if number else ""
            raise ProtocolError(
                f"{kind}{about} by {signer}",
                "differs from the one that was accepted before (equivocation)",
                "A party says each thing once; the first stands and both are evidence. Send the stored bytes again.",
                sender=signer,
            )
        return False

    def statement(self, job: bytes, number: int, kind: Kind, signer: str) -> Signed | None:
        """One statement, if it was made."""
        where = (STATEMENTS.c.job == job) & (STATEMENTS.c.round == number) & (STATEMENTS.c.kind == str(kind))
        found = self._db.execute(
            select(STATEMENTS.c.body, STATEMENTS.c.signature).where(where & (STATEMENTS.c.signer == signer))
        ).first()
        return None if found is None else Signed(found.body, found.signature)

    def statements(self, job: bytes, number: int, kind: Kind) -> dict[str, Signed]:
        """All statements of one kind in one round, by signer, sorted (a server's collation need not be Python's)."""
        where = (STATEMENTS.c.job == job) & (STATEMENTS.c.round == number) & (STATEMENTS.c.kind == str(kind))
        rows = self._db.execute(select(STATEMENTS).where(where))
        return {row.signer: Signed(row.body, row.signature) for row in sorted(rows, key=lambda row: str(row.signer))}

    def drop_statements(self, job: bytes, number: int, kind: Kind) -> None:
        """Forget the statements of one kind in one round: those of a commit that another one replaces."""
        where = (STATEMENTS.c.job == job) & (STATEMENTS.c.round == number) & (STATEMENTS.c.kind == str(kind))
        self._db.execute(delete(STATEMENTS).where(where))

    def add_mails(self, job: bytes, mails: Mapping[str, bytes]) -> None:
        """The deal's mails."""
        for addressee, sealed in mails.items():
            self._db.execute(insert(MAILS).values(job=job, addressee=addressee, sealed=sealed))

    def mail(self, job: bytes, addressee: str) -> bytes:
        """The deal's mail to one silo; empty if there is none."""
        where = (MAILS.c.job == job) & (MAILS.c.addressee == addressee)
        return self._db.execute(select(MAILS.c.sealed).where(where)).scalar() or b""

    # -- rounds --------------------------------------------------------------------------------------------------------

    def add_round(self, job: bytes, row: RoundRow) -> None:
        """A new round: its number had none before, ever (the primary key sees to it)."""
        self._db.execute(
            insert(ROUNDS).values(
                job=job,
                round=row.round,
                phase=int(row.phase),
                participants=json.dumps(list(row.participants)),
                adapter=row.adapter,
                deadline_utc=_text(row.deadline_utc),
                opened_utc=_text(row.opened_utc),
            )
        )

    def set_round(self, job: bytes, number: int, **values: Any) -> None:  # noqa: ANN401 - columns
        """Where the round stands now; datetimes are converted."""
        plain = {name: _text(value) if isinstance(value, datetime) else value for name, value in values.items()}
        self._db.execute(update(ROUNDS).where((ROUNDS.c.job == job) & (ROUNDS.c.round == number)).values(**plain))

    def add_aggregation(self, job: bytes, number: int, spent_ns: int) -> None:
        """So much more processor time went into the round's sum."""
        values = {"aggregation_ns": ROUNDS.c.aggregation_ns + spent_ns}
        self._db.execute(update(ROUNDS).where((ROUNDS.c.job == job) & (ROUNDS.c.round == number)).values(**values))

    def rounds(self, job: bytes) -> tuple[RoundRow, ...]:
        """All rounds of a job, in order."""
        rows = self._db.execute(select(ROUNDS).where(ROUNDS.c.job == job).order_by(ROUNDS.c.round))
        return tuple(_round(row) for row in rows)

    def round(self, job: bytes, number: int) -> RoundRow | None:
        """One round, if it was ever announced."""
        where = (ROUNDS.c.job == job) & (ROUNDS.c.round == number)
        found = self._db.execute(select(ROUNDS).where(where)).first()
        return None if found is None else _round(found)

    def certified_rounds(self, job: bytes) -> tuple[int, ...]:
        """Numbers of the rounds that have a certificate, in order."""
        query = select(ROUNDS.c.round).where((ROUNDS.c.job == job) & ROUNDS.c.certified).order_by(ROUNDS.c.round)
        return tuple(self._db.execute(query).scalars())

    def add_upload(self, job: bytes, number: int, silo: str, bytes_received: int) -> None:
        """So much more came of a silo in a round: its accepted update, what it released."""
        where = (UPLOADS.c.job == job) & (UPLOADS.c.round == number) & (UPLOADS.c.silo == silo)
        total = UPLOADS.c.bytes_received + bytes_received
        if not self._db.execute(update(UPLOADS).where(where).values(bytes_received=total)).rowcount:
            self._db.execute(insert(UPLOADS).values(job=job, round=number, silo=silo, bytes_received=bytes_received))

    def bytes_by_silo(self, job: bytes) -> dict[str, int]:
        """Bytes of accepted updates and releases, by silo, over all rounds."""
        query = select(UPLOADS.c.silo, func.sum(UPLOADS.c.bytes_received)).where(UPLOADS.c.job == job)
        return {name: int(total) for name, total in self._db.execute(query.group_by(UPLOADS.c.silo))}

    def bytes_by_round(self, job: bytes) -> dict[int, int]:
        """Bytes of accepted updates and releases, by round."""
        query = select(UPLOADS.c.round, func.sum(UPLOADS.c.bytes_received)).where(UPLOADS.c.job == job)
        return {number: int(total) for number, total in self._db.execute(query.group_by(UPLOADS.c.round))}

    # -- parties -------------------------------------------------------------------------------------------------------

    def put_member(self, member: MemberRow, now: datetime) -> bool:
        """A party that enrolled, or enrolled again; whether it has another identity key now than before."""
        where = (MEMBERS.c.role == str(member.role)) & (MEMBERS.c.name == member.name)
        known = self._db.execute(select(MEMBERS.c.identity_key).where(where)).scalar()
        values = {"identity_key": member.identity_key, "identity_pem": member.identity_pem, "enrolled_utc": _text(now)}
        if not self._db.execute(update(MEMBERS).where(where).values(**values)).rowcount:
            self._db.execute(insert(MEMBERS).values(role=str(member.role), name=member.name, **values))
        return known not in (None, member.identity_key)

    def members(self) -> tuple[MemberRow, ...]:
        """All enrolled parties, sorted by role and name."""
        rows = self._db.execute(select(MEMBERS).order_by(MEMBERS.c.role, MEMBERS.c.name))
        return tuple(MemberRow(Role(row.role), row.name, row.identity_key, row.identity_pem) for row in rows)


class Store:
    """The database. `transaction` commits when its block ends and rolls back when it raises."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str | Path) -> "Store":
        """Open a database and bring it to this version. Raises as `runtime.database.open_database`."""
        return cls(open_database(url, "aggregator.migrations"))

    @property
    def engine(self) -> Engine:
        """For the other ports onto the same database."""
        return self._engine

    def close(self) -> None:
        """Give back its connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One durable step."""
        with write(self._engine) as connection:
            yield Transaction(connection)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One state of the database, to read from; waits for no writer."""
        with read(self._engine) as connection:
            yield Transaction(connection)


def _job(row: Row[Any]) -> JobRow:
    return JobRow(
        row.job,
        row.name,
        row.plan,
        JobPhase(row.phase),
        row.reason,
        None if row.roll is None else tuple(json.loads(row.roll)),
        _moment_or_none(row.deadline_utc),
        row.submitted_by,
        _moment(row.submitted_utc),
        _moment_or_none(row.closed_utc),
        row.forgotten,
    )


def _round(row: Row[Any]) -> RoundRow:
    return RoundRow(
        row.round,
        RoundPhase(row.phase),
        tuple(json.loads(row.participants)),
        row.adapter,
        row.result,
        row.certified,
        row.reason,
        _moment_or_none(row.deadline_utc),
        _moment(row.opened_utc),
        _moment_or_none(row.closed_utc),
        row.seconds,
        row.aggregation_ns,
    )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)
