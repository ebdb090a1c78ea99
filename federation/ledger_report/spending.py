"""How each population's budget went: every change of its balance, and where it stood at the end of each day."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.ledger.entry import (
    AnyEntry,
    BudgetChangeEntry,
    CommitEntry,
    PolicyEntry,
    RefundEntry,
    ReserveEntry,
    SubCapEntry,
)


@dataclass(frozen=True)
class Level:
    """A population after an entry: epsilon spent (committed), charged (with what is reserved), and the lifetime cap."""

    utc: str
    spent: float
    charged: float
    cap: float


def levels_of(entries: Iterable[AnyEntry]) -> dict[str, tuple[Level, ...]]:
    """By population, the balances and caps that its entries state, oldest first; the first is that of a new budget."""
    found: dict[str, list[Level]] = {}
    for entry in entries:
        match entry:
            case PolicyEntry():
                found[entry.population] = [Level(entry.utc, 0.0, 0.0, entry.epsilon)]
            case ReserveEntry() | CommitEntry() | RefundEntry() | BudgetChangeEntry():
                levels, balance = found[entry.population], entry.balance
                cap = entry.epsilon if isinstance(entry, BudgetChangeEntry) else levels[-1].cap
                levels.append(Level(entry.utc, balance.spent_epsilon, balance.charged_epsilon, cap))
            case _:
                pass
    return {population: tuple(levels) for population, levels in found.items()}


def by_day(levels: Sequence[Level]) -> tuple[tuple[str, Level], ...]:
    """The last balance of each day (UTC) on which it changed."""
    return tuple({level.utc[:10]: level for level in levels}.items())


def sub_caps_of(entries: Iterable[AnyEntry], population: str) -> dict[str | None, float]:
    """The sub-caps of a population that stand at the end, by purpose; None: of every single job."""
    found: dict[str | None, float | None] = {}
    for entry in entries:
        if isinstance(entry, SubCapEntry) and entry.population == population:
            found[entry.purpose] = entry.epsilon
    return {purpose: cap for purpose, cap in found.items() if cap is not None}
