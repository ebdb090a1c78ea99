"""What each job was, did and cost at one institution, read from its entries and, where the bundle has it, its plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from privacy.accounting import ZERO, add, rdp_epsilon
from privacy.ledger.entry import (
    AnyEntry,
    CommitEntry,
    JobApprovalEntry,
    PolicyEntry,
    RefundEntry,
    RefuseEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundEntry,
    SelfTestEntry,
)
from privacy.ledger.figures import total_pld
from privacy.ledger.parts import LocalNoise, SharedNoise
from privacy.plan import JobPlan


@dataclass(frozen=True)
class Approval:
    """One approval of a job. `legal_basis` and `dpia` are the approval's own, or else those of the policy."""

    entry: JobApprovalEntry
    legal_basis: str | None
    dpia: str | None
    from_policy: frozenset[str]  # which of the two are the policy's
    withdrawn_by: int | None  # the refusal that took it back


@dataclass(frozen=True)
class Cost:
    """What one job alone spent of one population: committed rounds, epsilon (Renyi) at `delta`, PLD where computed."""

    population: str
    unit: str
    delta: float
    epsilon: float
    epsilon_pld: float | None
    executed: int
    presumed: int
    refunded: int
    reserved: int  # still set aside
    mechanism: LocalNoise | SharedNoise
    accountant: str

    @property
    def charged(self) -> int:
        """Rounds that count as spent."""
        return self.executed + self.presumed


@dataclass(frozen=True)
class Job:
    """One job, by its plan's digest. `plan` is None where the bundle leaves it out."""

    digest: str
    plan: JobPlan | None
    purposes: tuple[str, ...]
    datasets: tuple[str, ...]
    approvals: tuple[Approval, ...]
    costs: tuple[Cost, ...]
    models: tuple[str, ...]  # SHA-256, as the reservations state them
    software: tuple[str, ...]
    recipients: tuple[str, ...]  # whom a sealed update was handed to
    members: tuple[str, ...]  # of the published rounds
    published: tuple[RoundEntry, ...]
    aborted: int
    first_utc: str
    last_utc: str

    @property
    def name(self) -> str:
        """The plan's name, or the digest's beginning."""
        return self.digest[:12] if self.plan is None else self.plan.name

    @property
    def granted(self) -> int:
        """Charged rounds of the approval that stands; 0 where none does."""
        return sum(each.entry.rounds for each in self.approvals if each.withdrawn_by is None)

    @property
    def shares_noise(self) -> bool:
        """Whether its promise rests on other members too."""
        return any(isinstance(cost.mechanism, SharedNoise) for cost in self.costs)


def jobs_of(entries: Sequence[AnyEntry], plans: Mapping[str, JobPlan]) -> tuple[Job, ...]:
    """Every job that was more than refused, in the order of its first entry."""
    policies = {entry.population: entry for entry in entries if isinstance(entry, PolicyEntry)}
    by_job: dict[str, list[AnyEntry]] = {}
    for entry in entries:
        digest = digest_of(entry)
        if digest is not None:
            by_job.setdefault(digest, []).append(entry)
    return tuple(
        _job(digest, own, plans.get(digest), policies)
        for digest, own in by_job.items()
        if not all(isinstance(entry, RefuseEntry) for entry in own)
    )


def digest_of(entry: AnyEntry) -> str | None:
    """The job that an entry is about."""
    match entry:
        case (
            JobApprovalEntry()
            | SelfTestEntry()
            | ReserveEntry()
            | CommitEntry()
            | RefundEntry()
            | RefuseEntry()
            | ReleaseEntry()
            | RoundEntry()
        ):
            return entry.job
        case _:
            return None


def _job(digest: str, entries: Sequence[AnyEntry], plan: JobPlan | None, policies: Mapping[str, PolicyEntry]) -> Job:
    approvals = [entry for entry in entries if isinstance(entry, JobApprovalEntry)]
    reserved = [entry for entry in entries if isinstance(entry, ReserveEntry)]
    rounds = [entry for entry in entries if isinstance(entry, RoundEntry)]
    published = tuple(entry for entry in rounds if entry.outcome == "published")
    purposes = [*(entry.purpose for entry in approvals), *(entry.purpose for entry in reserved)]
    return Job(
        digest=digest,
        plan=plan,
        purposes=_distinct(purposes if plan is None else [*purposes, plan.purpose]),
        datasets=_distinct(entry.dataset for entry in reserved),
        approvals=tuple(_approval(entry, entries, policies) for entry in approvals),
        costs=tuple(_cost(population, entries) for population in _distinct(e.population for e in reserved)),
        models=_distinct(entry.model_sha256 for entry in reserved),
        software=_distinct(entry.software for entry in reserved),
        recipients=_distinct(entry.recipient for entry in entries if isinstance(entry, ReleaseEntry)),
        members=_distinct(sorted(name for entry in published for name in entry.members)),
        published=published,
        aborted=len(rounds) - len(published),
        first_utc=entries[0].utc,
        last_utc=entries[-1].utc,
    )


def _approval(entry: JobApprovalEntry, entries: Sequence[AnyEntry], policies: Mapping[str, PolicyEntry]) -> Approval:
    policy = None if entry.population is None else policies.get(entry.population)
    own = {"legal_basis": entry.legal_basis, "dpia": entry.dpia}
    general = {"legal_basis": policy.legal_basis, "dpia": policy.dpia} if policy is not None else dict.fromkeys(own)
    taken = (e.sequence for e in entries if isinstance(e, RefuseEntry) and e.round is None)
    return Approval(
        entry=entry,
        legal_basis=own["legal_basis"] or general["legal_basis"],
        dpia=own["dpia"] or general["dpia"],
        from_policy=frozenset(name for name, value in own.items() if value is None and general[name] is not None),
        withdrawn_by=next((sequence for sequence in taken if sequence > entry.sequence), None),
    )


def _cost(population: str, entries: Sequence[AnyEntry]) -> Cost:
    reserved = [e for e in entries if isinstance(e, ReserveEntry) and e.population == population]
    commits = [e for e in entries if isinstance(e, CommitEntry) and e.population == population]
    refunded = sum(isinstance(e, RefundEntry) and e.population == population for e in entries)
    presumed = sum(e.outcome == "presumed" for e in commits)
    spent, first = ZERO, reserved[0]
    for commit in commits:
        spent = add(spent, commit.charge.rdp)
    delta = first.charge.delta
    epsilon = rdp_epsilon(spent, delta)
    return Cost(
        population=population,
        unit=first.unit,
        delta=delta,
        epsilon=epsilon,
        epsilon_pld=total_pld([commit.charge.event for commit in commits], delta, epsilon),
        executed=len(commits) - presumed,
        presumed=presumed,
        refunded=refunded,
        reserved=len(reserved) - len(commits) - refunded,
        mechanism=first.mechanism,
        accountant=first.charge.accountant,
    )


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
