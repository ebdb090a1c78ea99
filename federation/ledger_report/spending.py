"""How each population's budget went: every change of its balance, and where it stood at the end of each day."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.ledger.entry import AnyEntry, CommitEntry, PolicyEntry, RefundEntry, ReserveEntry


@dataclass(frozen=True)
class Level:
    """A population's balance after an entry: epsilon spent (committed), and charged (with what is reserved)."""

    utc: str
    spent: float
    charged: float


def levels_of(entries: Iterable[AnyEntry]) -> dict[str, tuple[Level, ...]]:
    """By population, the balances that its entries state, oldest first; the first is that of a new budget."""
    found: dict[str, list[Level]] = {}
    for entry in entries:
        match entry:
            case PolicyEntry():
                found[entry.population] = [Level(entry.utc, 0.0, 0.0)]
            case ReserveEntry() | CommitEntry() | RefundEntry():
                level = Level(entry.utc, entry.balance.spent_epsilon, entry.balance.charged_epsilon)
                found[entry.population].append(level)
            case _:
                pass
    return {population: tuple(levels) for population, levels in found.items()}


def by_day(levels: Sequence[Level]) -> tuple[tuple[str, Level], ...]:
    """The last balance of each day (UTC) on which it changed."""
    return tuple({level.utc[:10]: level for level in levels}.items())
