"""A job in memory, and a `Turn`: one event, what the machines make of it, recorded in one transaction.

Check, record durably, then act: a turn changes nothing in memory and removes nothing from disk until its transaction
is committed. If anything in it fails, all of it did not happen, and the same event may come again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

import structlog

from aggregator import job as jobs
from aggregator import round as rounds
from aggregator import round_states as states
from aggregator.accumulate import RunningSum
from aggregator.blobs import Blobs
from aggregator.commit import commit_sum
from aggregator.job_events import (
    AnnounceRound,
    CloseRound,
    CountPresent,
    FixRoll,
    JobAction,
    JobEvent,
    PresenceChanged,
    RoundAborted,
    RoundBroken,
    RoundPublished,
    SilosSilent,
)
from aggregator.rebuild import context_of, facts_of, job_phase, round_phase, round_state
from aggregator.record import record_round
from aggregator.round_events import (
    CloseSpool,
    CommitSum,
    JobClosed,
    ReportAborted,
    ReportBroken,
    ReportLeftOut,
    ReportPublished,
    RoundAction,
    RoundEvent,
)
from aggregator.store import Kind, RoundRow, Transaction
from certs.identity import Identity
from privacy.ckks.layouts import layout_of
from privacy.errors import InternalError, ProtocolError
from privacy.plan import JobPlan, RoundContext

LOG = structlog.get_logger("aggregator")


@dataclass
class LiveJob:
    """A job and its newest round as they stand. Only the runner changes it, under its locks."""

    job: bytes
    plan: JobPlan
    submitted_utc: datetime
    state: jobs.JobState
    round: states.RoundState | None = None
    ctx: RoundContext | None = None
    closed_utc: datetime | None = None
    forgotten: bool = False
    running_sum: RunningSum | None = field(default=None, repr=False)
    uploads: dict[str, Callable[[], object]] = field(default_factory=dict, repr=False)  # by silo: what ends its upload

    def collects(self, number: int) -> bool:
        """True while this round takes updates."""
        return isinstance(self.round, states.Collecting) and self.number == number

    @property
    def deadline_utc(self) -> datetime | None:
        """When this job next goes on by itself."""
        if isinstance(self.round, states.OPEN_ROUND):
            return self.round.deadline_utc
        return getattr(self.state, "deadline_utc", None)

    @property
    def number(self) -> int:
        """The newest round's number; 0 before the first."""
        return 0 if self.round is None else self.round.terms.number


class Turn:
    """One step of one job. `tell_job` and `tell_round` may be called several times before it is committed."""

    def __init__(
        self,
        live: LiveJob,
        tx: Transaction,
        now: datetime,
        *,
        connected: frozenset[str],
        blobs: Blobs,
        identity: Identity,
    ) -> None:
        self.live = live
        self.tx = tx
        self.now = now
        self.job = live.state
        self.round = live.round
        self.ctx = live.ctx
        self._running_sum = live.running_sum
        self._closed_utc = live.closed_utc
        self._forgotten = live.forgotten
        self._connected = connected
        self._blobs = blobs
        self._identity = identity
        self._afterwards: list[Callable[[], None]] = []

    def settle(self) -> tuple[Callable[[], object], ...]:
        """The transaction is committed: let memory follow. Returns what ends the uploads that come too late now."""
        live, collected = self.live, self.live.number
        live.state, live.round, live.ctx = self.job, self.round, self.ctx
        live.running_sum, live.closed_utc, live.forgotten = self._running_sum, self._closed_utc, self._forgotten
        if live.collects(collected):
            return ()
        late = tuple(live.uploads.values())
        live.uploads.clear()
        return late

    def tidy_up(self) -> None:
        """Let the disk follow, and the log."""
        for act in self._afterwards:
            act()

    def forget(self) -> None:
        """The job was over long enough: its sums and starting adapter go. Its statements stay."""
        self.tx.set_forgotten(self.live.job)
        self._forgotten = True
        self._afterwards.append(lambda: self._blobs.forget(self.live.job))

    # -- the job -------------------------------------------------------------------------------------------------------

    def tell_job(self, event: JobEvent) -> None:
        """Let the job machine take an event, record what follows, and do it."""
        before = job_phase(self.job)
        self.job, actions = jobs.step(self.job, event, self.now)
        phase = job_phase(self.job)
        if phase.closed and self._closed_utc is None:
            self._closed_utc = self.now
        reason = self.job.reason if isinstance(self.job, jobs.Stopped) else ""
        deadline_utc = getattr(self.job, "deadline_utc", None)
        self.tx.set_job(self.live.job, phase, reason, deadline_utc, self._closed_utc)
        if phase is not before:
            self._log("job", phase.name, why=reason)
        for action in actions:
            self._perform_for_job(action)

    def _perform_for_job(self, action: JobAction) -> None:
        match action:
            case FixRoll(members=members):
                self.tx.set_roll(self.live.job, members)
            case CountPresent():
                self.tell_job(PresenceChanged(self._connected))
            case AnnounceRound(number=number, participants=participants, adapter=adapter):
                self._announce(number, participants, adapter)
            case CloseRound(reason=reason):
                if isinstance(self.round, states.OPEN_ROUND):
                    self.tell_round(JobClosed(reason), self.round.terms.number)
            case _:
                assert_never(action)

    def _announce(self, number: int, participants: tuple[str, ...], adapter: bytes) -> None:
        self.ctx = RoundContext(self.live.job, number, adapter, participants)
        state = rounds.announce(self.live.plan, number, participants, self.now)
        self.round = state
        self._running_sum = RunningSum(layout_of(self.live.plan))
        phase = round_phase(state)
        row = RoundRow(
            number, phase, participants, adapter, None, False, "", state.deadline_utc, self.now, None, 0.0, 0
        )
        self.tx.add_round(self.live.job, row)
        self._log("round", phase.name, participants=len(participants))

    # -- the round -----------------------------------------------------------------------------------------------------

    def context(self, number: int) -> RoundContext:
        """The context of a round that was announced. Raises ProtocolError for any other number."""
        if self.ctx is not None and self.ctx.round_number == number:
            return self.ctx
        return context_of(self.live.job, self._row(number))

    def tell_round(self, event: RoundEvent, number: int) -> None:
        """Let the round machine of round `number` take an event, record what follows, and do it."""
        before = self._state(number)
        after, actions = rounds.step(before, event, self.now)
        if self.round is not None and self.round.terms.number == number:
            self.round = after
        self._record_round(before, after)
        for action in actions:
            self._perform_for_round(action, number)

    def _state(self, number: int) -> states.RoundState:
        if self.round is not None and self.round.terms.number == number:
            return self.round
        row = self._row(number)
        return round_state(row, self.live.plan, facts_of(self.tx, self.live.job, number))

    def _row(self, number: int) -> RoundRow:
        row = self.tx.round(self.live.job, number)
        if row is None:
            raise ProtocolError(
                f"round {number}", "was never announced", "Ask for the job (GetJob) and its current round."
            )
        return row

    def _record_round(self, before: states.RoundState, after: states.RoundState) -> None:
        phase, number = round_phase(after), after.terms.number
        if phase is round_phase(before) and not isinstance(after, states.OPEN_ROUND):
            return
        values: dict[str, object] = {"phase": int(phase), "deadline_utc": getattr(after, "deadline_utc", None)}
        match after:
            case states.Releasing():
                values |= {"certified": True}
            case states.Published(adapter=adapter):
                values |= {"certified": True, "result": adapter} | self._closing(number)
            case states.Aborted(reason=reason, certified=certified):
                values |= {"certified": certified, "reason": reason} | self._closing(number)
        self.tx.set_round(self.live.job, number, **values)
        if type(before) is not type(after):
            self._log("round", phase.name, number=number, why=str(values.get("reason", "")))

    def _closing(self, number: int) -> dict[str, object]:
        seconds = (self.now - self._row(number).opened_utc).total_seconds()
        return {"closed_utc": self.now, "seconds": max(0.0, seconds)}

    def _perform_for_round(self, action: RoundAction, number: int) -> None:
        match action:
            case CommitSum():
                self._commit(action)
            case ReportPublished(adapter=adapter):
                self._report(RoundPublished(adapter))
            case ReportAborted(reason=reason, silent=silent):
                self._report(RoundAborted(reason, silent))
            case ReportBroken(reason=reason):
                self._report(RoundBroken(reason))
            case ReportLeftOut(silent=silent, wrong=wrong):
                self._report(SilosSilent(silent))
                why = f"no fingerprint of {_names(silent)}; a wrong one, or no shares of use, of {_names(wrong)}"
                self._log("sum without", "FINGERPRINTING", number=number, why=why)
            case CloseSpool(keep_sum=keep_sum):
                self._running_sum = None
                record_round(self.tx, self.live.job, number, self._identity, self.now)
                self._afterwards.append(lambda: self._blobs.drop_spool(self.live.job, number, keep_sum=keep_sum))
            case _:
                assert_never(action)

    def _commit(self, action: CommitSum) -> None:
        """Steps 2 and 4."""
        if self.ctx is None:
            raise InternalError("commit", "there is no round to commit", "Report this.")
        job, plan, number = self.live.job, self.live.plan, self.ctx.round_number
        running_sum = self._running_sum or RunningSum(layout_of(plan))
        self._blobs.round(job, number)
        path = self._blobs.sum(job, number, action.attempt)
        commit = commit_sum(self.tx, plan, self.ctx, action, running_sum, path, self._identity)
        if action.attempt > 1:
            self.tx.drop_statements(job, number, Kind.COMMIT)
            self.tx.drop_statements(job, number, Kind.FINGERPRINT)
            replaced = self._blobs.sum(job, number, action.attempt - 1)
            self._afterwards.append(lambda: replaced.unlink(missing_ok=True))
        if not self.tx.once(job, number, Kind.COMMIT, plan.aggregator.name, commit, self.now):
            raise InternalError(f"round {number}", "was committed before", "Report this; nothing was changed.")
        self.tx.add_aggregation(job, number, running_sum.spent_ns)
        self._running_sum = None  # it is on disk

    def _report(self, event: RoundPublished | RoundAborted | RoundBroken | SilosSilent) -> None:
        """Tell the job machine, unless the job ended already: then the round ends with it."""
        if isinstance(self.job, jobs.Running) or (
            isinstance(event, RoundBroken) and isinstance(self.job, jobs.Gathering)
        ):
            self.tell_job(event)
        elif isinstance(event, RoundBroken):
            why, job = event.reason, self.live.job.hex()[:12]
            self._afterwards.append(lambda: LOG.warning("silos disagree after the end of a job", job=job, why=why))

    def _log(self, what: str, phase: str, *, number: int | None = None, why: str = "", participants: int = 0) -> None:
        facts: dict[str, object] = {"job": self.live.job.hex()[:12], "state": phase}
        facts |= {"round": number or (self.round.terms.number if self.round else 0)}
        facts |= ({"why": why} if why else {}) | ({"participants": participants} if participants else {})
        self._afterwards.append(lambda: LOG.info("phase changed", action=what, **facts))


def _names(silos: frozenset[str]) -> str:
    return ", ".join(sorted(silos)) or "nobody"
