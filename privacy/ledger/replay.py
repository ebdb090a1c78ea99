"""Budgets as a fold over a ledger: the ledger is the record, the budget is what it adds up to.

The agent rebuilds its budgets with this at start-up; the auditor replays the same decisions with the same code.
"""

from collections.abc import Callable, Iterable, Mapping

from privacy.budget import BudgetPolicy, BudgetState, commit, first_budget, grant, refund, reserve, withdraw
from privacy.budget_change import change_epsilon, change_sub_cap
from privacy.errors import InternalError
from privacy.ledger.entry import (
    AnyEntry,
    BudgetChangeEntry,
    JobApprovalEntry,
    PolicyEntry,
    RefuseEntry,
    SubCapEntry,
)
from privacy.ledger.parts import Charge

Budgets = Mapping[str, BudgetState]
"""Budget by population."""

First = Callable[[BudgetState | None, BudgetPolicy], BudgetState]


def budgets_of(entries: Iterable[AnyEntry]) -> Budgets:
    """The budgets after these entries, oldest first. Raises Refused or InternalError as `after` does."""
    budgets: Budgets = {}
    for entry in entries:
        budgets = after(budgets, entry)
    return budgets


def after(budgets: Budgets, entry: AnyEntry, first: First = first_budget) -> Budgets:
    """The budgets after one entry; entries that move no budget return the same mapping.

    `first` makes a population's first budget. Raises Refused for what the filter or the rules of `privacy.budget` do
    not admit, InternalError for an entry about a population or a reservation that does not exist.
    """
    match entry.kind:
        case "release" | "round":
            return budgets
        case "reserve":
            before, key = of_population(budgets, entry.population), entry.key
            if key in before.reserved:
                why = f"{key} is reserved by an earlier entry"
                raise InternalError(f"budget of {entry.population}", why, "Report this.")
            state = reserve(before, key, entry.charge.rdp)
        case "commit":
            before = of_population(budgets, entry.population)
            state = commit(before, entry.key, entry.charge.rdp)
        case "refund":
            before = of_population(budgets, entry.population)
            state = refund(before, entry.key)
        case _:
            return _after_decision(budgets, entry, first)
    return budgets if state is before else {**budgets, entry.population: state}


def _after_decision(budgets: Budgets, entry: AnyEntry, first: First) -> Budgets:
    """As `after`, for what people decide."""
    match entry:
        case PolicyEntry():
            policy = BudgetPolicy(entry.population, entry.epsilon, entry.delta, entry.unit)
            return {**budgets, entry.population: first(budgets.get(entry.population), policy)}
        case JobApprovalEntry(population=str() as population, charge=Charge(rdp=vector)):
            state = of_population(budgets, population)
            return {**budgets, population: grant(state, entry.job, vector, entry.rounds, entry.purpose)}
        case BudgetChangeEntry():
            state = change_epsilon(of_population(budgets, entry.population), entry.epsilon)
            return {**budgets, entry.population: state}
        case SubCapEntry():
            state = change_sub_cap(of_population(budgets, entry.population), entry.purpose, entry.epsilon)
            return {**budgets, entry.population: state}
        case RefuseEntry(job=job, round=None) if any(job in state.grants for state in budgets.values()):
            return {population: withdraw(state, job) for population, state in budgets.items()}
        case _:
            return budgets


def of_population(budgets: Budgets, population: str) -> BudgetState:
    """The population's budget. Raises InternalError if the ledger sets none."""
    state = budgets.get(population)
    if state is None:
        raise InternalError(f"budget of {population}", "no earlier entry sets one", "Set a budget first.")
    return state
