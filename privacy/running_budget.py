"""A budget that is moved on in place, by the functions of privacy.budget: for replays that look at no earlier state.

What those functions return is then the state that they were given. They change nothing before they have checked all.
"""

from typing import Any, Self, TypeVar, cast

from immutables import Map

from privacy.budget import BudgetPolicy, BudgetState, first_budget

_K = TypeVar("_K")
_V = TypeVar("_V")


class RunningBudget(BudgetState):
    """A state that is its own next one."""

    def moved(self, **changes: Any) -> Self:  # noqa: ANN401 - what fields hold
        """Changed in place."""
        self.__dict__.update(changes)
        return self


class _InPlace(dict[_K, _V]):
    """What `immutables.Map` does, in place."""

    def set(self, key: _K, value: _V) -> Self:
        self[key] = value
        return self

    def delete(self, key: _K) -> Self:
        del self[key]
        return self


def first_running(existing: BudgetState | None, policy: BudgetPolicy) -> RunningBudget:
    """As `first_budget`."""
    first = first_budget(existing, policy)
    return RunningBudget(policy, first.filter_order, first.committed, _map(), _map(), _map(), _map(), first.sub_caps)


def _map() -> Map[_K, _V]:
    return cast("Map[_K, _V]", _InPlace[_K, _V]())
