"""What a job's entries must say about one another: approved, reserved on its terms, run and released as reserved."""

from collections import defaultdict

from privacy.accounting import Event
from privacy.budget import BudgetRefusal, BudgetState, RoundKey, check_sub_caps, what_if
from privacy.errors import VerificationError
from privacy.fields import Strict
from privacy.ledger.entry import (
    AnyEntry,
    CommitEntry,
    JobApprovalEntry,
    RefuseEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundScoped,
)
from privacy.ledger.figures import near
from privacy.ledger.parts import Asked, Balance
from privacy.ledger.replay import Budgets, of_population

_NEXT = "Compare the entries of this round."


class RoundBook:
    """Remembers reservations, commitments and releases of a log that is read once, in order."""

    def __init__(self) -> None:
        self.executed: dict[str, list[Event]] = {}
        self._reserved: dict[tuple[str, str, int], ReserveEntry] = {}
        self._committed: dict[tuple[str, str, int], str | None] = {}  # the ciphertext charged, until it is released
        self._released: defaultdict[str, set[int]] = defaultdict(set)  # rounds by job
        self._ended: defaultdict[str, set[int]] = defaultdict(set)
        self._charged_jobs: set[str] = set()
        self._refused: dict[str, int] = {}  # jobs that were refused and not approved since, and by which entry

    def read(self, entry: AnyEntry, budgets: Budgets) -> None:
        """Check the entry against those before it; `budgets` are as before it. Raises VerificationError."""
        match entry.kind:
            case "reserve":
                self._check_not_refused(entry)
                _check_terms(entry, budgets)
                self._reserved[entry.population, entry.job, entry.round] = entry
            case "commit":
                charged = entry.population, entry.job, entry.round
                self._check_commit(entry, self._reserved.pop(charged, None))
                self._committed[charged] = entry.ciphertext_sha256
                self.executed.setdefault(entry.population, []).append(entry.charge.event)
            case "release":
                self._check_release(entry)
            case "round":
                if not _first_time(self._ended, entry):
                    raise VerificationError("round", f"how {entry.key} ended was said before", _NEXT)
            case "job-approval":
                _check_approval(entry, budgets)
                self._refused.pop(entry.job, None)
                if entry.population is not None:
                    self._charged_jobs.add(entry.job)
            case "refund":
                self._reserved.pop((entry.population, entry.job, entry.round), None)
            case "refuse":
                if entry.decision == "budget":
                    _check_refusal(entry, budgets)
                if entry.round is None:
                    self._refused[entry.job] = entry.sequence
            case _:
                pass

    def check_balance(self, entry: AnyEntry, budgets: Budgets) -> None:
        """Check the balance an entry states; `budgets` are as after it. Raises VerificationError."""
        match entry.kind:
            case "reserve" | "commit" | "refund" | "budget-change":
                _check_stated(entry.balance, of_population(budgets, entry.population))
            case "refuse" if entry.balance is not None and entry.population is not None:
                _check_stated(entry.balance, of_population(budgets, entry.population))
            case _:
                pass

    def _check_not_refused(self, entry: ReserveEntry) -> None:
        if entry.job in self._refused:
            why = f"job {entry.job[:12]} was refused by entry {self._refused[entry.job]}, and not approved since"
            raise VerificationError("reserve", why, _NEXT)

    def _check_commit(self, entry: CommitEntry, reserved: ReserveEntry | None) -> None:
        if reserved is None:
            raise VerificationError("commit", f"nothing was reserved for {entry.key}", _NEXT)
        if not (_same(entry.charge, reserved.charge) and _same(entry.mechanism, reserved.mechanism)):
            raise VerificationError("commit", "mechanism or charge is not the one that was reserved", _NEXT)
        stated = [entry.steps_executed, entry.sampler, entry.precision, entry.rng, entry.ciphertext_sha256]
        unstated = stated.count(None)
        if entry.outcome == "presumed":
            if unstated < len(stated):
                raise VerificationError("commit", "presumed, yet it says what ran", _NEXT)
        elif unstated:
            raise VerificationError("commit", "executed, yet it does not say what ran", _NEXT)
        elif entry.steps_executed != entry.mechanism.steps_planned:
            why = f"{entry.steps_executed} steps ran, {entry.mechanism.steps_planned} were planned"
            raise VerificationError("steps_executed", why, _NEXT)

    def _check_release(self, entry: ReleaseEntry) -> None:
        if not _first_time(self._released, entry):
            raise VerificationError("release", f"{entry.key} was released before", _NEXT)
        if entry.population is None:
            if entry.job in self._charged_jobs:
                raise VerificationError("release", "no population is named, yet this job was approved for one", _NEXT)
            return
        charged = entry.population, entry.job, entry.round
        if charged not in self._committed:
            raise VerificationError("release", f"{entry.key} was not charged before its update left", _NEXT)
        if self._committed.pop(charged) != entry.ciphertext_sha256:
            raise VerificationError("release", "not the ciphertext that was charged", _NEXT)


def _first_time(rounds: defaultdict[str, set[int]], entry: RoundScoped) -> bool:
    """Whether the entry's round is none of these; it is one of them from now on."""
    of_job = rounds[entry.job]
    if entry.round in of_job:
        return False
    of_job.add(entry.round)
    return True


def _same(first: Strict, second: Strict) -> bool:
    return first is second or first == second  # equal texts are mostly read as one object


def _check_approval(entry: JobApprovalEntry, budgets: Budgets) -> None:
    """An approval states what its rounds cost, at the budget's delta, and where they would bring the population."""
    if entry.population is None:
        if entry.charge is not None or entry.epsilon_after is not None:
            raise VerificationError("job-approval", "no population is named, yet it states a cost", _NEXT)
        return
    if entry.charge is None or entry.epsilon_after is None:
        raise VerificationError("job-approval", "a population is named, and not what a round costs it", _NEXT)
    state = of_population(budgets, entry.population)
    _check_delta(entry.charge.delta, state)
    right = what_if(state, entry.charge.rdp, entry.rounds).epsilon_after
    if not near(entry.epsilon_after, right):
        why = f"{entry.epsilon_after:.6f} is stated, {right:.6f} is right"
        raise VerificationError("epsilon_after", why, _NEXT)


def _check_terms(entry: ReserveEntry, budgets: Budgets) -> None:
    """A reservation is in the units of its population's budget; the contribution bound is 1 in both by its type."""
    state = of_population(budgets, entry.population)
    _check_delta(entry.charge.delta, state)
    account = state.accounts.get(entry.job)
    if account is not None and entry.purpose != account.purpose:
        raise VerificationError("purpose", f"{entry.purpose!r} is stated, {account.purpose!r} was approved", _NEXT)
    if entry.unit != state.policy.unit:
        why = f"each {entry.unit} is protected, but the policy protects each {state.policy.unit}"
        raise VerificationError("unit", why, _NEXT)


def _check_delta(stated: float, state: BudgetState) -> None:
    delta = state.policy.delta
    if stated != delta:
        raise VerificationError("delta", f"{stated:g}, but the policy's is {delta:g}", _NEXT)


def _check_refusal(entry: RefuseEntry, budgets: Budgets) -> None:
    """A budget's refusal is replayed for the reason it gives; it must come out as no."""
    if entry.asked is None or entry.population is None:
        raise VerificationError("refuse", "a budget's refusal must say what was asked of which population", _NEXT)
    state = of_population(budgets, entry.population)
    key = None if entry.round is None else RoundKey(entry.job, entry.round)
    match entry.reason:
        case "over-cap":
            wrong = what_if(state, entry.asked.charge.rdp, entry.asked.rounds).fits
        case "over-sub-cap":
            wrong = _within_sub_caps(state, entry.job, entry.asked)
        case "grant-used-up":
            wrong = state.rounds_left(entry.job) > 0
        case "not-approved":
            granted = state.grants.get(entry.job)
            wrong = granted is not None and granted.vector == entry.asked.charge.rdp
        case "number-used":
            wrong = key not in state.closed and key not in state.reserved
        case _:
            wrong = False  # unit or delta: what the plan said of them is not in the ledger
    if wrong:
        raise VerificationError("refuse", f"the budget of {entry.population} would have admitted it", _NEXT)


def _within_sub_caps(state: BudgetState, job: str, asked: Asked) -> bool:
    if asked.purpose is None:
        raise VerificationError("refuse", "a refusal by a sub-cap must say for which purpose it was asked", _NEXT)
    try:
        check_sub_caps(state, job, asked.purpose, asked.charge.rdp, asked.rounds)
    except BudgetRefusal:
        return False
    return True


def _check_stated(stated: Balance, state: BudgetState) -> None:
    if stated.filter_order != state.filter_order:
        why = f"{stated.filter_order} is stated, {state.filter_order} is right"
        raise VerificationError("filter_order", why, _NEXT)
    said = stated.spent_epsilon, stated.charged_epsilon, stated.remaining_epsilon
    right = state.spent_epsilon, state.charged_epsilon, state.left_epsilon
    if said == right:
        return
    for name, one, other in zip(("spent_epsilon", "charged_epsilon", "remaining_epsilon"), said, right, strict=True):
        if not near(one, other):
            raise VerificationError(name, f"{one:.6f} is stated, {other:.6f} is right", _NEXT)
