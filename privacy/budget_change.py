"""Changing what a population may spend: its lifetime cap, and the sub-caps within it. Nothing that was spent changes.

Who may do so is another matter: privacy/two_person.py.
"""

import math
from dataclasses import replace

from privacy.accounting import GRID, ORDERS, conversion
from privacy.budget import LARGEST_EPSILON, BudgetState
from privacy.errors import ConfigError, Refused
from privacy.sub_caps import MOST_PURPOSES


def change_epsilon(state: BudgetState, epsilon: float) -> BudgetState:
    """The budget with another lifetime cap; delta, unit, what was spent and the filter's order stay.

    Raises ConfigError for an epsilon that cannot be enforced, Refused for one that does not cover what is committed and
    reserved already: nothing is ever un-spent. Approvals stand, and their rounds must fit like all others.
    """
    policy, total, what = replace(state.policy, epsilon=epsilon), state.total, f"budget of {state.policy.population}"
    if epsilon == state.policy.epsilon:
        raise Refused(what, f"is epsilon {epsilon:g} already", "Nothing needs to be changed.")
    order = state.filter_order
    if order is not None and total[ORDERS.index(order)] > policy.caps[ORDERS.index(order)]:
        least = math.ceil((total[ORDERS.index(order)] + conversion(order, policy.delta) + GRID) * 1000) / 1000
        raise Refused(
            what,
            f"epsilon {epsilon:g} does not cover what is spent and reserved already ({state.charged_epsilon:.3f})",
            f"Nothing is ever un-spent; the least this population can be set to is {least:.3f}.",
        )
    return replace(state, policy=policy)


def change_sub_cap(state: BudgetState, purpose: str | None, epsilon: float | None) -> BudgetState:
    """With another cap for the jobs of a purpose (None: for every single job); epsilon None takes the cap away.

    Raises ConfigError for an epsilon that is none, or too many purposes; Refused for one that does not cover what the
    purpose has committed and reserved, or changes nothing.
    """
    what = f"sub-cap of {state.policy.population} for " + ("every single job" if purpose is None else repr(purpose))
    if epsilon is not None and not 0 < epsilon <= LARGEST_EPSILON:
        raise ConfigError(what, f"epsilon is {epsilon}", "Give an epsilon in (0, 1000].")
    if state.sub_caps.of(purpose) == epsilon:
        raise Refused(what, "is so already", "Nothing needs to be changed.")
    if purpose is not None and epsilon is not None and epsilon < (spent := state.purpose_epsilon(purpose)):
        why = f"epsilon {epsilon:g} does not cover what the purpose has spent and reserved already ({spent:.3f})"
        raise Refused(what, why, "Nothing is ever un-spent; name at least that.")
    changed = state.sub_caps.changed(purpose, epsilon)
    if len(changed.purposes) > MOST_PURPOSES:
        raise ConfigError(what, f"there are {MOST_PURPOSES} purposes with a cap already", "Take one away first.")
    return replace(state, sub_caps=changed)
