"""Jobs in silo.db: what this silo knows of each and what was decided, within the caller's transaction."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from certs.times import utc_text
from privacy.errors import InternalError, Refused
from privacy.plan import JobPlan
from privacy.statement import Signed
from runtime.naming import job_meant
from silo_agent.tables import jobs, rolls

MOST_UNDECIDED = 100


class JobState(StrEnum):
    """Where a job stands at this silo."""

    SEEN = "seen"  # waits for a steward
    APPROVED = "approved"
    REFUSED = "refused"
    JOINED = "joined"  # the signed JobJoin is on its way or there
    READY = "ready"  # the roll is accepted, and where there is one the cohort's key is in the vault
    OUT = "out"  # the cohort's roll was fixed without this silo
    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """True once this silo will do nothing more for the job."""
        return self in {JobState.REFUSED, JobState.OUT, JobState.FINISHED, JobState.STOPPED, JobState.CANCELLED}


OPEN = frozenset(state for state in JobState if not state.over)
WAITING = frozenset({JobState.SEEN})
NOT_JOINED = frozenset({JobState.SEEN, JobState.APPROVED})
TAKING_PART = frozenset({JobState.JOINED, JobState.READY})


class JobMoved(Refused):
    """Somebody else, a steward or the agent, decided about the job meanwhile; that decision stands."""


@dataclass(frozen=True)
class JobRecord:
    """A job as silo.db has it."""

    job: bytes
    plan: JobPlan = field(repr=False)
    state: JobState
    dataset: str | None
    decided_by: str
    why: str
    adapter_round: int
    adapter_digest: bytes

    @property
    def name(self) -> str:
        """The plan's name for it; several jobs may share one."""
        return self.plan.name


@dataclass(frozen=True)
class AcceptedRoll:
    """The joins and the deal this silo acts on, verified when they were accepted. No deal with one-time keys."""

    joins: tuple[Signed, ...]
    deal: Signed | None
    key_commitment: bytes


def add_job(connection: Connection, plan: JobPlan, now: datetime) -> None:
    """Take down a job that was not known. Its starting adapter is the plan's."""
    connection.execute(
        insert(jobs).values(
            job=plan.digest(),
            name=plan.name,
            plan=plan.encode(),
            state=JobState.SEEN,
            dataset=None,
            decided_by="",
            why="",
            adapter_round=0,
            adapter_digest=bytes.fromhex(plan.initial_adapter),
            seen_utc=utc_text(now),
            changed_utc=utc_text(now),
        )
    )


def forget_undecided(connection: Connection, kept: bytes) -> None:
    """Drop the oldest jobs that ended before anybody here decided about them, but for `kept` and the newest 100.

    An aggregator that submits and cancels without end would else fill the disk with plans.
    """
    undecided = (jobs.c.decided_by == "") & jobs.c.state.in_([state for state in JobState if state.over])
    newest = select(jobs.c.job).where(undecided).order_by(jobs.c.changed_utc.desc(), jobs.c.job).limit(MOST_UNDECIDED)
    connection.execute(delete(jobs).where(undecided, jobs.c.job != kept, jobs.c.job.not_in(newest)))


def find_job(connection: Connection, job: bytes) -> JobRecord | None:
    """The job with this digest, if it is known."""
    row = connection.execute(select(jobs).where(jobs.c.job == job)).one_or_none()
    return None if row is None else _record(row)


def require_job_record(connection: Connection, job: bytes) -> JobRecord:
    """The job with this digest. Raises InternalError when it is not known."""
    record = find_job(connection, job)
    if record is None:
        raise InternalError(f"job {job.hex()[:12]}", "is not in silo.db", "Restore silo.db from a backup.")
    return record


def all_jobs(connection: Connection) -> tuple[JobRecord, ...]:
    """Every job, oldest first."""
    rows = connection.execute(select(jobs).order_by(jobs.c.seen_utc, jobs.c.job))
    return tuple(_record(row) for row in rows)


def named_job(connection: Connection, text: str) -> JobRecord:
    """The one job that a person means by a name or the beginning of a digest. Raises ConfigError."""
    records = {record.job.hex(): record for record in all_jobs(connection)}
    return records[job_meant(text, {job: record.name for job, record in records.items()})]


def set_job_state(
    connection: Connection,
    job: bytes,
    state: JobState,
    now: datetime,
    why: str = "",
    *,
    expected: Collection[JobState],
    **more: str | None,
) -> None:
    """Move a job on. `more` sets further columns (dataset, decided_by).

    Raises JobMoved unless the job is in one of the `expected` states: what the caller looked at before this
    transaction may have been decided otherwise since. Nothing that the transaction wrote then stands.
    """
    values = {"state": state, "why": why, "changed_utc": utc_text(now), **more}
    where = (jobs.c.job == job, jobs.c.state.in_(expected))
    if connection.execute(update(jobs).where(*where).values(**values)).rowcount == 0:
        record = require_job_record(connection, job)
        raise JobMoved(f"job {record.name}", f"is {record.state} by now", "`cloister silo jobs` says by whom and why.")


def set_adapter(connection: Connection, job: bytes, round_number: int, adapter_digest: bytes) -> None:
    """The global adapter after this round is the current one."""
    connection.execute(
        update(jobs).where(jobs.c.job == job).values(adapter_round=round_number, adapter_digest=adapter_digest)
    )


def accept_roll(
    connection: Connection, job: bytes, joins: Sequence[Signed], deal: Signed | None, key_commitment: bytes
) -> None:
    """Take down the one roll and deal this silo acts on in this job. A second one violates the primary key."""
    connection.execute(
        insert(rolls).values(
            job=job,
            joins=json.dumps([_pair(join) for join in joins]),
            deal=json.dumps(None if deal is None else _pair(deal)),
            key_commitment=key_commitment,
        )
    )


def accepted_roll(connection: Connection, job: bytes) -> AcceptedRoll | None:
    """The roll and deal that were accepted, if any were."""
    row = connection.execute(select(rolls).where(rolls.c.job == job)).one_or_none()
    if row is None:
        return None
    joins = tuple(_signed(pair) for pair in json.loads(row.joins))
    deal = json.loads(row.deal)
    return AcceptedRoll(joins, None if deal is None else _signed(deal), row.key_commitment)


def _record(row: Any) -> JobRecord:  # noqa: ANN401 - a row of `jobs`
    return JobRecord(
        job=row.job,
        plan=JobPlan.decode(row.plan),
        state=JobState(row.state),
        dataset=row.dataset,
        decided_by=row.decided_by,
        why=row.why,
        adapter_round=row.adapter_round,
        adapter_digest=row.adapter_digest,
    )


def _pair(signed: Signed) -> list[str]:
    return [signed.body.hex(), signed.signature.hex()]


def _signed(pair: list[str]) -> Signed:
    return Signed(bytes.fromhex(pair[0]), bytes.fromhex(pair[1]))
