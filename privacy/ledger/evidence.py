"""What stands behind a log's entries, and whether they agree with it: plans, rounds' transcripts, self-tests' reports.

None of it needs to be believed: a plan is named by its digest, a transcript carries everybody's signatures, a report's
digest is in the ledger. What is checked here is that the institution's entries say what these do.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from privacy.budget import RoundKey
from privacy.errors import VerificationError
from privacy.ledger.adapters import AdapterBook
from privacy.ledger.entry import (
    AnyEntry,
    CommitEntry,
    JobApprovalEntry,
    KeyEntry,
    KeyRotationEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundEntry,
    SelfTestEntry,
)
from privacy.ledger.openings import Opening, OpeningsBook
from privacy.ledger.parts import mechanism_of
from privacy.ledger.pins import PinBook
from privacy.plan import JobPlan
from privacy.record import RecordVerdict, RoundRecord, check_record
from privacy.self_test import SelfTestReport
from privacy.tasks import ModelTask

_NEXT = "Keep this copy, and ask the institution and another member of the round for theirs."


@dataclass(frozen=True)
class Scope:
    """Which entries an export brings the evidence of: those of one job, or from a time on, or all."""

    job: str | None = None  # the plan's digest
    since_utc: str | None = None

    def holds(self, entry: AnyEntry) -> bool:
        """Whether the evidence of an entry must be there."""
        if self.job is not None and getattr(entry, "job", None) != self.job:
            return False
        return self.since_utc is None or entry.utc >= self.since_utc


@dataclass(frozen=True)
class Evidence:
    """Encoded plans by job, transcripts by round, self-tests' reports by their SHA-256 in hex; texts of commitments."""

    plans: Mapping[str, bytes] = field(default_factory=dict)
    transcripts: Mapping[RoundKey, bytes] = field(default_factory=dict)
    reports: Mapping[str, bytes] = field(default_factory=dict)
    scope: Scope = Scope()
    openings: tuple[Opening, ...] = ()
    left_out: tuple[str, ...] = ()  # fields whose texts are not there


@dataclass(frozen=True)
class EvidenceReport:
    """How much of what the entries say was compared with its evidence."""

    plans: int
    transcripts: int
    reports: int
    rounds_out_of_scope: int  # published, and outside of what the export was asked for
    reports_absent: int  # of self-tests in scope; a report that a later one replaced is not kept
    members_unpinned: int = 0  # other members' keys that stand in plans, and are pinned nowhere in the log
    pins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # fingerprints, by party
    texts_opened: int = 0  # of those that entries commit to
    texts_left_out: Mapping[str, int] = field(default_factory=dict)  # by field


class EvidenceBook:
    """Reads a log's entries once, in order, beside the evidence. `public_key` is the institution's first."""

    def __init__(self, evidence: Evidence, institution: str, public_key: bytes) -> None:
        self._evidence = evidence
        self._institution = institution
        self._public_key = public_key
        self._plans: dict[str, JobPlan] = {}
        self._released: dict[RoundKey, str] = {}
        self._seen: set[RoundKey] = set()
        self._reports: set[str] = set()
        self._out_of_scope = self._absent = 0
        self._openings = OpeningsBook(evidence.openings, evidence.left_out)
        self._adapters, self._pins = AdapterBook(), PinBook()

    def read(self, entry: AnyEntry) -> None:
        """Check an entry. Raises VerificationError, or ProtocolError, naming what differs."""
        self._openings.read(entry)
        match entry:
            case JobApprovalEntry():
                self._check_approval(entry)
            case ReserveEntry():
                self._check_mechanism(entry)
                self._adapters.read(entry, self._initial(entry))
            case CommitEntry():
                self._check_mechanism(entry)
            case ReleaseEntry():
                self._check_charged(entry)
                self._released[entry.key] = entry.ciphertext_sha256
            case RoundEntry(outcome="published"):
                self._check_round(entry)
                self._adapters.read(entry, self._initial(entry))
            case SelfTestEntry():
                self._check_self_test(entry)
            case KeyEntry():
                self._pins.read(entry)
            case KeyRotationEntry():
                self._public_key = bytes.fromhex(entry.new_key)
            case _:
                pass

    def finish(self) -> EvidenceReport:
        """What was compared. Raises VerificationError for evidence of what no entry speaks of."""
        for name in self._evidence.transcripts.keys() - self._seen:
            raise VerificationError(f"transcript of {name}", "no entry says that this round was published", _NEXT)
        for job in self._evidence.plans.keys() - self._plans.keys():
            raise VerificationError(f"plan {job[:12]}", "no entry is about this job", _NEXT)
        for digest in self._evidence.reports.keys() - self._reports:
            raise VerificationError(f"self-test report {digest[:12]}", "no entry names it", _NEXT)
        self._openings.finish()
        return EvidenceReport(
            plans=len(self._plans),
            transcripts=len(self._seen),
            reports=len(self._reports),
            rounds_out_of_scope=self._out_of_scope,
            texts_opened=self._openings.opened,
            texts_left_out=dict(sorted(self._openings.left_out.items())),
            reports_absent=self._absent,
            members_unpinned=self._pins.unpinned,
            pins=self._pins.pins,
        )

    def _plan(self, entry: AnyEntry, job: str) -> JobPlan | None:
        """The job's plan; None if it is out of scope and not there."""
        if job not in self._plans:
            if job not in self._evidence.plans:
                if self._evidence.scope.holds(entry):
                    raise VerificationError(f"plan {job[:12]}", "is not in the export", _NEXT)
                return None
            plan = JobPlan.decode(self._evidence.plans[job])
            if plan.digest().hex() != job:
                raise VerificationError(f"plan {job[:12]}", "has another digest than the job it is filed under", _NEXT)
            self._require_identity(plan)
            self._pins.check(plan, self._institution)
            self._plans[job] = plan
        return self._plans[job]

    def _require_identity(self, plan: JobPlan) -> None:
        keys = plan.identity_keys | {plan.aggregator.name: bytes.fromhex(plan.aggregator.identity_key)}
        if keys.get(self._institution) != self._public_key:
            why = f"knows {self._institution} by another identity key than signed this log"
            raise VerificationError(f"plan of job {plan.name}", why, _NEXT)

    def _initial(self, entry: ReserveEntry | RoundEntry) -> str | None:
        plan = self._plan(entry, entry.job)
        return None if plan is None else plan.initial_adapter

    def _check_approval(self, entry: JobApprovalEntry) -> None:
        plan = self._plan(entry, entry.job)
        if plan is None:
            return
        if entry.purpose != plan.purpose:
            raise VerificationError("purpose", f"{entry.purpose!r} was approved, the plan's is {plan.purpose!r}", _NEXT)
        _require_charge(entry, plan)

    def _check_charged(self, entry: ReleaseEntry) -> None:
        """An update of a job that trains was charged to a population: the log's own rules then find the charge."""
        plan = self._plan(entry, entry.job)
        if plan is not None:
            _require_charge(entry, plan)

    def _check_mechanism(self, entry: ReserveEntry | CommitEntry) -> None:
        plan = self._plan(entry, entry.job)
        if plan is None:
            return
        if plan.dp is None:
            raise VerificationError(entry.kind, "the plan is a rehearsal, which charges nothing", _NEXT)
        if entry.mechanism != mechanism_of(plan.dp):
            raise VerificationError("mechanism", "is not the one that the plan promises", _NEXT)
        if isinstance(entry, CommitEntry):
            return
        if entry.unit != plan.dp.unit:
            raise VerificationError("unit", f"{entry.unit} is stated, the plan protects each {plan.dp.unit}", _NEXT)
        if entry.purpose != plan.purpose:
            raise VerificationError("purpose", f"{entry.purpose!r} is stated, the plan's is {plan.purpose!r}", _NEXT)
        if isinstance(plan.task, ModelTask) and entry.model_sha256 != plan.task.model.weights_sha256:
            raise VerificationError("model_sha256", "is not the model that the plan pins", _NEXT)

    def _check_round(self, entry: RoundEntry) -> None:
        self._plan(entry, entry.job)
        data = self._evidence.transcripts.get(entry.key)
        if data is None:
            if self._evidence.scope.holds(entry):
                raise VerificationError(f"transcript of {entry.key}", "is not in the export", _NEXT)
            self._out_of_scope += 1
            return
        if not self._evidence.scope.holds(entry):
            raise VerificationError(f"transcript of {entry.key}", "is outside of what the export says it holds", _NEXT)
        record = RoundRecord.decode(data)
        verdict = check_record(record)
        for what, said, proved in _facts(entry, record, verdict):
            if said != proved:
                raise VerificationError(what, f"{said} is stated, the round's transcript proves {proved}", _NEXT)
        self._check_applied(verdict)
        self._check_own_update(entry, record, verdict)
        self._seen.add(entry.key)

    def _check_applied(self, verdict: RecordVerdict) -> None:
        """A silo that took part signed the next adapter itself, and an aggregator has that of one silo at least."""
        mine = self._institution in verdict.participants
        if (mine and self._institution not in verdict.adapters) or not (
            verdict.adapters or self._institution in verdict.plan.identity_keys
        ):
            who = self._institution if mine else "any silo"
            raise VerificationError("transcript", f"lacks what {who} signed of the next adapter", _NEXT)

    def _check_own_update(self, entry: RoundEntry, record: RoundRecord, verdict: RecordVerdict) -> None:
        """What of this institution is in the sum is what it says it released, and charged before."""
        members = verdict.transcript.commit.members
        if self._institution not in members:
            return
        header = record.headers[members.index(self._institution)].signed
        digest = hashlib.sha256(header.body).hexdigest()
        released = self._released.get(entry.key)
        if released is None:
            why = f"an update of {self._institution} is in the sum, and no entry before says that one was released"
            raise VerificationError("release", why, _NEXT)
        if released != digest:
            raise VerificationError("release", "the update in the sum is not the one that was released", _NEXT)

    def _check_self_test(self, entry: SelfTestEntry) -> None:
        if entry.job is not None:
            self._plan(entry, entry.job)
        digest = entry.report_sha256
        if digest is None:
            return
        data = self._evidence.reports.get(digest)
        if data is None:
            self._absent += self._evidence.scope.holds(entry)
            return
        if hashlib.sha256(data).hexdigest() != digest:
            raise VerificationError("self-test report", "its SHA-256 is not the one in the ledger", _NEXT)
        report = SelfTestReport.decode(data)
        if (entry.checks, entry.passed) != (report.checks, report.passed):
            raise VerificationError("self-test report", "has other checks than the ledger, or another result", _NEXT)
        self._reports.add(digest)


def _require_charge(entry: JobApprovalEntry | ReleaseEntry, plan: JobPlan) -> None:
    if (entry.population is None) == (plan.dp is not None):
        why = (
            "touches no data, yet a population is charged"
            if plan.dp is None
            else "trains, yet no population is charged"
        )
        raise VerificationError("population", f"the plan {why}", _NEXT)


def _facts(entry: RoundEntry, record: RoundRecord, verdict: RecordVerdict) -> Iterator[tuple[str, object, object]]:
    """What an entry says of a round, beside what its transcript proves."""
    commit = verdict.transcript.commit
    yield "job", entry.job, verdict.plan.digest().hex()
    yield "round", entry.round, record.round
    yield "members", entry.members, tuple(commit.members)
    yield "transcript_sha256", entry.transcript_sha256, verdict.transcript.digest.hex()
    yield "sum_sha256", entry.sum_sha256, commit.commit.sum_root
    yield "adapter_before_sha256", entry.adapter_before_sha256, record.adapter_digest
    adapters = set(verdict.adapters.values())
    if adapters:
        yield "adapter_after_sha256", entry.adapter_after_sha256, adapters.pop()
