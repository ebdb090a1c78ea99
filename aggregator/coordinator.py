"""What a coordinator asks of the aggregator, as plain calls."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from cloister.wire import MAX_CHUNK_BYTES, FollowUp, JobPhase, JobStatus, Member, RoundStatus, SiloStatus

from aggregator import job as jobs
from aggregator import round_states as states
from aggregator.accumulate import read_chunks
from aggregator.blobs import storing, sync_folder
from aggregator.checks import check_artifact, check_plan
from aggregator.job_events import CoordinatorCancelled
from aggregator.live import LiveJob
from aggregator.reading import members_of, only
from aggregator.rebuild import facts_of, job_phase, round_phase
from aggregator.record import round_record
from aggregator.runner import Runner
from aggregator.store import JobRow, Kind, RoundRow, Transaction
from aggregator.tables import LEDGER
from aggregator.validations import last_validations, validation_of
from aggregator.waiting import waits_for
from certs.names import Role
from certs.times import utc_text
from privacy.errors import InternalError, ProtocolError, Refused
from privacy.plan import JobPlan
from runtime.ledger_store import Ledger
from runtime.reviews import follow_ups


class CoordinatorDesk:
    """Serves coordinators. Raises Refused for a plan that cannot be run here, ProtocolError for an unknown job."""

    def __init__(self, runner: Runner, *, max_artifact_bytes: int) -> None:
        self._runner = runner
        self._max_artifact_bytes = max_artifact_bytes

    def submit(self, coordinator: str, plan_bytes: bytes, artifact: Iterable[bytes]) -> bytes:
        """Take in a job with its starting adapter; returns the digest that names it."""
        plan = JobPlan.decode(plan_bytes)
        with self._runner.store.reading() as tx:
            check_plan(plan, self._runner.identity, tx.members())
        staged, sha256, size = self._stage(plan, artifact)
        try:
            check_artifact(plan, sha256, size)
            self._adopt(coordinator, plan, staged if size else None)
        finally:
            staged.unlink(missing_ok=True)
        return plan.digest()

    def _stage(self, plan: JobPlan, artifact: Iterable[bytes]) -> tuple[Path, str, int]:
        self._runner.blobs.make()
        path = self._runner.blobs.folder / f"{secrets.token_hex(8)}.part"
        digest, size = hashlib.sha256(), 0
        try:
            with storing(path), path.open("wb") as file:
                for part in artifact:
                    size += len(part)
                    self._check_size(plan, size)
                    digest.update(part)
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path, digest.hexdigest(), size

    def _check_size(self, plan: JobPlan, size: int) -> None:
        if size > self._max_artifact_bytes:
            why = f"its starting adapter is larger than {self._max_artifact_bytes} bytes"
            raise Refused(f"job {plan.name}", why, "Raise max_artifact_bytes in aggregator.toml.")

    def _adopt(self, coordinator: str, plan: JobPlan, staged: Path | None) -> None:
        now, job = self._runner.clock(), plan.digest()
        live = LiveJob(job, plan, now, jobs.submit(plan, now))
        row = JobRow(
            job, plan.name, plan.encode(), JobPhase.JOINING, "", None, live.deadline_utc, coordinator, now, None, False
        )

        def record(tx: Transaction) -> None:
            if staged is not None:
                path = self._runner.blobs.artifact(job)
                with storing(path):
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    staged.rename(path)
                    sync_folder(path.parent)
            tx.add_job(row)

        self._runner.adopt(live, record)

    def cancel(self, job: bytes) -> None:
        """End a job; its open round is burnt with it. Ending it again changes nothing."""
        with self._runner.turn(job) as turn:
            if not isinstance(turn.job, jobs.Cancelled):
                turn.tell_job(CoordinatorCancelled())

    def statuses(self) -> tuple[JobStatus, ...]:
        """Every job as it stands, oldest first."""
        every, connected = self._runner.all_jobs(), self._runner.presence.connected
        with self._runner.store.reading() as tx:
            return tuple(self._status(tx, live, connected) for live in every)

    def changed(self, sent: dict[bytes, JobStatus]) -> tuple[JobStatus, ...]:
        """Statuses that differ from `sent`, which is brought up to date."""
        fresh = tuple(status for status in self.statuses() if sent.get(status.job) != status)
        sent.update({status.job: status for status in fresh})
        return fresh

    def _status(self, tx: Transaction, live: LiveJob, connected: frozenset[str]) -> JobStatus:
        row = tx.job(live.job)
        if row is None:
            raise InternalError(f"job {live.plan.name}", "is in memory and not in the database", "Report this.")
        return JobStatus(
            job=live.job,
            name=live.plan.name,
            phase=job_phase(live.state),
            reason=row.reason or waits_for(live, connected),
            round=live.number,
            round_phase=round_phase(live.round),
            rounds_published=sum(each.result is not None for each in tx.rounds(live.job)),
            rounds_planned=live.plan.rounds,
            silos=self._silos(tx, live, row, connected),
            validations=last_validations(tx, live),
        )

    def _silos(self, tx: Transaction, live: LiveJob, row: JobRow, connected: frozenset[str]) -> tuple[SiloStatus, ...]:
        facts, received = facts_of(tx, live.job, live.number), tx.bytes_by_silo(live.job)
        joins, refusals = tx.statements(live.job, 0, Kind.JOB_JOIN), tx.statements(live.job, 0, Kind.JOB_REFUSAL)
        in_roll = joins if row.roll is None else row.roll
        participants = live.round.terms.participants if isinstance(live.round, states.OPEN_ROUND) else ()
        return tuple(
            SiloStatus(
                silo=name,
                connected=name in connected,
                joined=name in in_roll,
                refused=name in refusals,
                in_round=name in participants,
                submitted=name in facts.submitted,
                consented=name in facts.consented,
                applied=name in facts.applied,
                bytes_received=received.get(name, 0),
            )
            for name in live.plan.identity_keys
        )

    def rounds(self, job: bytes) -> tuple[RoundStatus, ...]:
        """A job's rounds in order. `aggregation_seconds` is processor time: checking, hashing, adding residues."""
        live = self._runner.live(job)
        with self._runner.store.reading() as tx:
            received = tx.bytes_by_round(job)
            return tuple(_round_status(tx, live, row, received.get(row.round, 0)) for row in tx.rounds(job))

    def members(self) -> tuple[Member, ...]:
        """Who is enrolled."""
        with self._runner.store.reading() as tx:
            found = tx.members()
        connected = self._runner.presence.connected
        return tuple(
            Member(
                name=member.name,
                role=str(member.role),
                identity_key=member.identity_key,
                identity_certificate_pem=member.identity_pem,
                connected=member.role is Role.SILO and member.name in connected,
            )
            for member in found
        )

    def follow_ups(self) -> tuple[FollowUp, ...]:
        """What auditors' reviews of this aggregator's ledger ask for, the one that is due first first."""
        with self._runner.store.reading() as tx:
            found = follow_ups(Ledger(tx.connection, LEDGER))
        return tuple(
            FollowUp(entry=one.sequence, auditor=one.auditor, follow_up=one.follow_up, due=one.due.isoformat())
            for one in found
        )

    def transcript(self, job: bytes, number: int) -> bytes:
        """One round's record (privacy.record), which anybody can check offline."""
        live = self._runner.live(job)
        with self._runner.store.reading() as tx:
            row = tx.job(job)
            if row is None:
                raise InternalError(f"job {live.plan.name}", "is in memory and not in the database", "Report this.")
            return round_record(tx, row, live.plan, number).encode()

    def model(self, job: bytes) -> Iterator[bytes]:
        """What a job that opens to the aggregator came to: its last global adapter's coordinates, in parts.

        Raises ProtocolError while there is none.
        """
        live = self._runner.live(job)
        path = self._runner.blobs.model(job)
        if not path.exists():
            if live.plan.open_to == "silos":
                why, step = "opens to its silos alone", "Ask a silo for it (`cloister silo export`)."
            else:
                why, step = "has none here yet", "A silo sends it when the job is over; see that one of them is up."
            raise ProtocolError(f"model of job {live.plan.name}", why, step)
        return read_chunks(path, MAX_CHUNK_BYTES)


def _round_status(tx: Transaction, live: LiveJob, row: RoundRow, received: int) -> RoundStatus:
    commit = only(tx.statements(live.job, row.round, Kind.COMMIT))
    return RoundStatus(
        round=row.round,
        phase=row.phase,
        participants=row.participants,
        members=() if commit is None else members_of(commit),
        reason=row.reason,
        opened_utc=utc_text(row.opened_utc),
        closed_utc="" if row.closed_utc is None else utc_text(row.closed_utc),
        seconds=row.seconds,
        aggregation_seconds=row.aggregation_ns / 1e9,
        bytes_received=received,
        validations=validation_of(tx, live, row),
    )
