"""Which jobs a silo takes part in without asking its steward: [policy] of silo.toml alone decides, and is on record."""

from dataclasses import dataclass

from privacy.accounting import rdp_epsilon, rdp_vector, round_event, times, unshared
from privacy.budget import BudgetPolicy
from privacy.job_budget import job_epsilon
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import AutoPolicyEntry
from privacy.plan import JobPlan
from privacy.tasks import Rehearsal
from silo_agent.entries import Author
from silo_agent.settings import Policy
from silo_agent.store import Transaction


@dataclass(frozen=True)
class Approve:
    """The policy approves, on this dataset (None for a rehearsal), with so many rounds beyond the plan's."""

    dataset: str | None
    extra_rounds: int


@dataclass(frozen=True)
class Ask:
    """A steward decides; why the policy does not."""

    why: str


def lone_epsilon(plan: JobPlan, delta: float, rounds: int) -> float | None:
    """What they cost if noise is shared and this silo's share is all there is, as no other member of a round's sum is
    honest; None if every silo noises for itself.
    """
    if plan.dp is None or plan.dp.noise == "local":
        return None
    event = unshared(round_event(plan.dp, plan.dp.steps_per_round))
    return rdp_epsilon(times(rdp_vector(event), rounds), delta)


def assumption(plan: JobPlan, delta: float, rounds: int) -> str:
    """What the epsilon of a job with shared noise rests on, in a sentence; empty for one with local noise."""
    alone = lone_epsilon(plan, delta, rounds)
    if plan.dp is None or alone is None:
        return ""
    epsilon, honest = job_epsilon(plan, delta, rounds), plan.dp.noise_shares
    return (
        f"its noise is shared: epsilon {epsilon:.3f} holds while {honest} members of every sum are honest, and is "
        f"{alone:.3f} if this silo alone is"
    )


def granted_rounds(plan: JobPlan, policy: Policy) -> int:
    """How many charged rounds the policy grants a job: the plan's and `extra_rounds`, as far as it has attempts."""
    return min(plan.rounds + policy.extra_rounds, plan.round_attempts)


def decide(plan: JobPlan, policy: Policy, budget: BudgetPolicy | None) -> Approve | Ask:
    """What the policy says of a plan; `budget` is that of policy.dataset's population, None where there is none yet.

    Nothing a plan says can widen the limits: what it costs is counted at the budget's delta, over every round that is
    granted. Raises ConfigError for a mechanism that cannot be priced.
    """
    if isinstance(plan.task, Rehearsal):
        return Approve(None, 0) if policy.rehearsals else Ask("policy.rehearsals is off")
    if not policy.auto_approve or policy.dataset is None or policy.max_epsilon_per_job is None:
        return Ask("policy.auto_approve is off")
    if policy.purposes and plan.purpose not in policy.purposes:
        return Ask("its purpose is not one of policy.purposes")
    if plan.dp is not None and plan.dp.noise == "shared" and not policy.shared_noise:
        return Ask(f"policy.shared_noise is off, and {assumption(plan, plan.dp.delta, plan.rounds)}")
    return _within_budget(plan, policy.dataset, policy.max_epsilon_per_job, granted_rounds(plan, policy), budget)


def note_policy(tx: Transaction, policy: Policy, by: Author) -> None:
    """Put the policy on record, unless the newest one there is the same: what it approves is held against it."""
    entry = AutoPolicyEntry(**by.fields(), **policy.model_dump())
    newest = None
    for body in tx.ledger.entries_of((entry.kind,)):
        newest = decode_entry(body)
    if newest is None or newest.model_dump(include=set(Policy.model_fields)) != policy.model_dump():
        tx.record(entry)


def _within_budget(
    plan: JobPlan, dataset: str, limit: float, rounds: int, budget: BudgetPolicy | None
) -> Approve | Ask:
    if budget is None:
        return Ask("the population of policy.dataset has no budget")
    cost = job_epsilon(plan, budget.delta, rounds)
    if cost > limit:
        return Ask(f"{rounds} rounds cost epsilon {cost:.3f}; policy.max_epsilon_per_job is {limit:g}")
    return Approve(dataset, rounds - plan.rounds)
