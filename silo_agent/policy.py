"""Which jobs a silo takes part in without asking its steward: pure, decided by [policy] of silo.toml alone."""

from dataclasses import dataclass

from privacy.accounting import dp_sgd_event, rdp_epsilon, rdp_vector, times
from privacy.budget import BudgetPolicy
from privacy.plan import JobPlan, Rehearsal
from silo_agent.settings import Policy


@dataclass(frozen=True)
class Approve:
    """The policy approves, on this dataset (None for a rehearsal), with so many rounds beyond the plan's."""

    dataset: str | None
    extra_rounds: int


@dataclass(frozen=True)
class Ask:
    """A steward decides; why the policy does not."""

    why: str


def job_epsilon(plan: JobPlan, delta: float, rounds: int) -> float:
    """What so many rounds of the plan cost on their own: epsilon (RDP) at this delta; 0 for a rehearsal.

    Raises ConfigError for a mechanism that cannot be priced.
    """
    if plan.dp is None:
        return 0.0
    vector = times(rdp_vector(dp_sgd_event(plan.dp, plan.dp.steps_per_round)), rounds)
    return rdp_epsilon(vector, delta)


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
    if budget is None:
        return Ask("the population of policy.dataset has no budget")
    rounds = granted_rounds(plan, policy)
    cost = job_epsilon(plan, budget.delta, rounds)
    if cost > policy.max_epsilon_per_job:
        limit = policy.max_epsilon_per_job
        return Ask(f"{rounds} rounds cost epsilon {cost:.3f}; policy.max_epsilon_per_job is {limit:g}")
    return Approve(policy.dataset, rounds - plan.rounds)
