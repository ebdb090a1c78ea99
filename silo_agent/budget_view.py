"""Budgets as a steward reads them: what is, and what a job would make of it."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from privacy.accounting import rdp_epsilon, rdp_vector, round_event
from privacy.budget import BudgetRefusal, BudgetState, check_sub_caps, what_if
from privacy.errors import ConfigError
from privacy.job_budget import check_terms
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import CommitEntry, RefundEntry
from privacy.mechanism import DpSgd
from privacy.plan import JobPlan
from runtime.ledger_store import Ledger
from silo_agent.accounts import all_budgets
from silo_agent.admission import check_price
from silo_agent.home import Home
from silo_agent.jobs import named_job
from silo_agent.tables import LEDGER

if TYPE_CHECKING:
    from silo_agent.approval import ByRecord


def budget_rows(home: Home) -> list[dict[str, Any]]:
    """One row per population: cap, spent, reserved, left, how many rounds were charged and how many refunded, and what
    each purpose has spent with its reservations (all epsilons by RDP at the policy's delta).
    """
    with home.store.reading() as connection:
        budgets = all_budgets(connection)
        entries = map(decode_entry, Ledger(connection, LEDGER).entries_of(("commit", "refund")))
        ended: Counter[tuple[str, str]] = Counter(
            (e.population, e.kind) for e in entries if isinstance(e, CommitEntry | RefundEntry)
        )
    return [_row(budget, ended) for budget in budgets]


def _row(budget: BudgetState, ended: Counter[tuple[str, str]]) -> dict[str, Any]:
    return {
        "population": budget.policy.population,
        "epsilon_cap": budget.policy.epsilon,
        "delta": budget.policy.delta,
        "unit": budget.policy.unit,
        "spent": budget.spent_epsilon,
        "reserved": max(0.0, budget.charged_epsilon - budget.spent_epsilon),
        "left": budget.left_epsilon,
        "rounds_charged": ended[budget.policy.population, "commit"],
        "rounds_refunded": ended[budget.policy.population, "refund"],
        "job_cap": budget.sub_caps.per_job,
        "purposes": [
            {"purpose": purpose, "spent": budget.purpose_epsilon(purpose), "cap": budget.sub_caps.of(purpose)}
            for purpose in sorted({a.purpose for a in budget.accounts.values()} | set(budget.sub_caps.purposes))
        ],
    }


def job_rows(home: Home, text: str) -> tuple[JobPlan, list[dict[str, Any]]]:
    """One row per population: what all planned rounds of the job would make of it. Nothing is reserved.

    Raises ConfigError for a rehearsal, Refused for a mechanism that cannot be priced.
    """
    with home.store.reading() as connection:
        plan = named_job(connection, text).plan
        budgets = all_budgets(connection)
    if plan.dp is None:
        raise ConfigError(f"job {plan.name!r}", "is a rehearsal", "It touches no data and costs nothing.")
    check_price(plan)
    return plan, cost_rows(budgets, plan.digest().hex(), plan.purpose, plan.dp, plan.rounds)


def cost_rows(budgets: Iterable[BudgetState], job: str, purpose: str, dp: DpSgd, rounds: int) -> list[dict[str, Any]]:
    """What so many rounds of a mechanism would make of each budget: epsilons by RDP at the policy's delta."""
    vector = rdp_vector(round_event(dp, dp.steps_per_round))
    rows = []
    for budget in budgets:
        forecast, why_not = what_if(budget, vector, rounds), _why_not(budget, job, purpose, dp, rounds)
        rows.append(
            {
                "population": budget.policy.population,
                "epsilon_cap": budget.policy.epsilon,
                "delta": budget.policy.delta,
                "left": budget.left_epsilon,
                "before": forecast.epsilon_before,
                "after": forecast.epsilon_after,
                "one_round_alone": rdp_epsilon(vector, budget.policy.delta),
                "rounds_asked": forecast.rounds_asked,
                "rounds_that_fit": forecast.rounds_that_fit,
                "epsilon_needed": forecast.epsilon_needed,
                "fits": forecast.fits and not why_not,
                "why_not": why_not,
            }
        )
    return rows


def _why_not(budget: BudgetState, job: str, purpose: str, dp: DpSgd, rounds: int) -> str:
    """Another reason than the lifetime cap; empty if there is none."""
    try:
        check_terms(budget.policy, dp)
        check_sub_caps(budget, job, purpose, rdp_vector(round_event(dp, dp.steps_per_round)), rounds)
    except BudgetRefusal as refusal:
        return refusal.why
    return ""


def by_record_text(found: "ByRecord") -> str:
    """Why the promise is to patients, with this job's figures."""
    left = "nothing that has a figure"
    if found.epsilon_by_record is not None:
        left = f"epsilon {found.epsilon_by_record:.1f}"
    return (
        f"Each patient is protected with all their records: epsilon {found.epsilon:.3f} for this job. Promised to each "
        f"record instead, the same figure would leave the patient here who has {found.most_records} records {left}."
    )
