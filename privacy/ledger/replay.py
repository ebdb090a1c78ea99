"""Budgets as a fold over a ledger: the ledger is the record, the budget is what it adds up to.

The agent rebuilds its budgets with this at start-up; the auditor replays the same decisions with the same code.
"""

from collections.abc import Iterable, Mapping

from privacy.budget import BudgetPolicy, BudgetState, commit, first_budget, grant, refund, reserve, withdraw
from privacy.budget_change import change_epsilon, change_sub_cap
from privacy.errors import InternalError
from privacy.ledger.entry import (
    AnyEntry,
    BudgetChangeEntry,
    CommitEntry,
    JobApprovalEntry,
    PolicyEntry,
    RefundEntry,
    RefuseEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundEntry,
    SubCapEntry,
)
from privacy.ledger.parts import Charge

Budgets = Mapping[str, BudgetState]
"""Budget by population."""


def budgets_of(entries: Iterable[AnyEntry]) -> Budgets:
    """The budgets after these entries, oldest first. Raises Refused or InternalError as `after` does."""
    budgets: Budgets = {}
    for entry in entries:
        budgets = after(budgets, entry)
    return budgets


def after(budgets: Budgets, entry: AnyEntry) -> Budgets:
    """The budgets after one entry; entries that move no budget return the same mapping.

    Raises Refused for what the filter or the rules of `privacy.budget` do not admit, InternalError for an entry
    about a population or a reservation that does not exist.
    """
    match entry:
        case ReserveEntry():
            before, key = of_population(budgets, entry.population), entry.key
            if key in before.reserved:
                why = f"{key} is reserved by an earlier entry"
                raise InternalError(f"budget of {entry.population}", why, "Report this.")
            state = reserve(before, key, entry.charge.rdp)
        case CommitEntry():
            state = commit(of_population(budgets, entry.population), entry.key, entry.charge.rdp)
        case ReleaseEntry() | RoundEntry():
            return budgets
        case PolicyEntry():
            policy = BudgetPolicy(entry.population, entry.epsilon, entry.delta, entry.unit)
            return {**budgets, entry.population: first_budget(budgets.get(entry.population), policy)}
        case JobApprovalEntry(population=str() as population, charge=Charge(rdp=vector)):
            state = of_population(budgets, population)
            return {**budgets, population: grant(state, entry.job, vector, entry.rounds, entry.purpose)}
        case BudgetChangeEntry():
            state = change_epsilon(of_population(budgets, entry.population), entry.epsilon)
        case SubCapEntry():
            state = change_sub_cap(of_population(budgets, entry.population), entry.purpose, entry.epsilon)
        case RefuseEntry(job=job, round=None) if any(job in state.grants for state in budgets.values()):
            return {population: withdraw(state, job) for population, state in budgets.items()}
        case RefundEntry():
            state = refund(of_population(budgets, entry.population), entry.key)
        case _:
            return budgets
    return {**budgets, entry.population: state}


def of_population(budgets: Budgets, population: str) -> BudgetState:
    """The population's budget. Raises InternalError if the ledger sets none."""
    if population not in budgets:
        raise InternalError(f"budget of {population}", "no earlier entry sets one", "Set a budget first.")
    return budgets[population]
