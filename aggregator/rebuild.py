"""States out of rows: where every job and round stood when the aggregator was last up, exactly.

Phases and statements are written in one transaction, so each state is determined by its row and the statements.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cloister.wire import JobPhase, RoundPhase

from aggregator import job as jobs
from aggregator import round as rounds
from aggregator import round_states as states
from aggregator.store import JobRow, Kind, RoundRow, Transaction
from privacy.errors import InternalError
from privacy.plan import JobPlan, RoundContext
from privacy.roll import Roll, check_roll
from privacy.statement import Signed, read
from privacy.transcript import Applied, Fingerprint, RoundCommit


@dataclass(frozen=True)
class RoundFacts:
    """The statements from which a round's state follows."""

    joined: frozenset[str]
    submitted: frozenset[str]
    withdrawn: frozenset[str]
    consented: frozenset[str]
    applied: Mapping[str, states.Opened]
    members: tuple[str, ...]
    attempt: int
    fingerprinted: frozenset[str]
    unopened: Mapping[str, frozenset[str]]
    released: frozenset[str]


def job_phase(state: jobs.JobState) -> JobPhase:
    """The protocol's phase of a state."""
    match state:
        case jobs.Joining():
            return JobPhase.JOINING
        case jobs.Dealing():
            return JobPhase.DEALING
        case jobs.Gathering() | jobs.Running():
            return JobPhase.RUNNING
    return JobPhase[type(state).__name__.upper()]


def round_phase(state: states.RoundState | None) -> RoundPhase:
    """The protocol's phase of a state; NONE before the first round."""
    return RoundPhase.NONE if state is None else RoundPhase[type(state).__name__.upper()]


def job_state(tx: Transaction, row: JobRow, plan: JobPlan) -> jobs.JobState:
    """A job's state."""
    match row.phase:
        case JobPhase.JOINING:
            refused = frozenset(tx.statements(row.job, 0, Kind.JOB_REFUSAL))
            joins = tx.statements(row.job, 0, Kind.JOB_JOIN)
            return jobs.Joining(plan, _deadline(row), joins, refused)
        case JobPhase.DEALING:
            return jobs.Dealing(plan, _deadline(row), roll_of(tx, row, plan))
        case JobPhase.RUNNING:
            return _running(row, plan, tx.rounds(row.job))
        case JobPhase.FINISHED:
            return jobs.Finished(plan)
        case JobPhase.STOPPED:
            return jobs.Stopped(plan, row.reason)
        case JobPhase.CANCELLED:
            return jobs.Cancelled(plan)


def roll_of(tx: Transaction, row: JobRow, plan: JobPlan) -> Roll:
    """The job's roll. Raises InternalError if it is not fixed yet."""
    if row.roll is None:
        raise InternalError(f"job {row.name}", "has no roll yet", "Report this.")
    joins = tx.statements(row.job, 0, Kind.JOB_JOIN)
    return check_roll(plan, [joins[name] for name in row.roll])


def _running(row: JobRow, plan: JobPlan, past: Iterable[RoundRow]) -> jobs.JobState:
    progress, is_open = jobs.Progress(bytes.fromhex(plan.initial_adapter)), False
    for each in past:
        if each.phase is RoundPhase.PUBLISHED and each.result is not None:
            progress = jobs.Progress(each.result, each.round, progress.published + 1)
        else:
            progress = jobs.Progress(progress.adapter, each.round, progress.published)
        is_open = each.phase < RoundPhase.PUBLISHED
    members = row.roll or ()
    if is_open:
        return jobs.Running(plan, members, progress)
    return jobs.Gathering(plan, members, progress, row.deadline_utc)


def context_of(job: bytes, row: RoundRow) -> RoundContext:
    """The context a round's statements are bound to."""
    return RoundContext(job, row.round, row.adapter, row.participants)


def facts_of(tx: Transaction, job: bytes, number: int) -> RoundFacts:
    """The statements of a round."""
    signed = next(iter(tx.statements(job, number, Kind.COMMIT).values()), None)
    commit = None if signed is None else read(signed, RoundCommit)
    fingerprints = tx.statements(job, number, Kind.FINGERPRINT)
    return RoundFacts(
        frozenset(tx.statements(job, number, Kind.ROUND_JOIN)),
        frozenset(tx.statements(job, number, Kind.HEADER)),
        frozenset(tx.statements(job, number, Kind.WITHDRAWAL)),
        frozenset(tx.statements(job, number, Kind.CONSENT)),
        {silo: _opened(signed) for silo, signed in tx.statements(job, number, Kind.APPLIED).items()},
        () if commit is None else tuple(member.silo for member in commit.members),
        0 if commit is None else commit.attempt,
        frozenset(fingerprints),
        {silo: frozenset(read(each, Fingerprint).unopened) for silo, each in fingerprints.items()},
        frozenset(tx.statements(job, number, Kind.RELEASE)),
    )


def round_state(row: RoundRow, plan: JobPlan, facts: RoundFacts) -> states.RoundState:
    """A round's state."""
    terms = rounds.terms_of(plan, row.round, row.participants)
    if row.phase < RoundPhase.PUBLISHED:
        return _open_round(row, terms, facts)
    if row.phase is RoundPhase.ABORTED:
        return states.Aborted(terms, row.reason, row.certified)
    if row.result is None:
        raise InternalError(f"round {row.round}", "is stored as PUBLISHED without its result", "Report this.")
    said = frozenset(opened.validation for opened in facts.applied.values() if opened.adapter == row.result)
    return states.Published(terms, facts.members, row.result, said)


def _open_round(row: RoundRow, terms: states.Terms, facts: RoundFacts) -> states.RoundState:
    deadline_utc = _deadline(row)
    match row.phase:
        case RoundPhase.ANNOUNCED:
            return states.Announced(terms, deadline_utc, facts.joined)
        case RoundPhase.COLLECTING:
            return states.Collecting(terms, deadline_utc, facts.submitted, facts.withdrawn)
        case RoundPhase.FINGERPRINTING:
            return states.Fingerprinting(
                terms, deadline_utc, facts.members, facts.attempt, facts.fingerprinted, unopened=facts.unopened
            )
        case RoundPhase.COMMITTED:
            return states.Committed(terms, deadline_utc, facts.members, facts.consented)
        case RoundPhase.SHARING:
            return states.Sharing(terms, deadline_utc, facts.members, facts.consented, facts.released)
        case RoundPhase.RELEASING:
            return states.Releasing(terms, deadline_utc, facts.members, facts.consented, facts.applied)
    raise InternalError(f"round {row.round}", f"is stored as {row.phase.name}", "Report this.")


def _opened(signed: Signed) -> states.Opened:
    applied = read(signed, Applied)
    return states.Opened(bytes.fromhex(applied.adapter), applied.validation)


def _deadline(row: JobRow | RoundRow) -> datetime:
    if row.deadline_utc is None:
        raise InternalError("the database", f"phase {row.phase.name} is stored without a deadline", "Report this.")
    return row.deadline_utc
