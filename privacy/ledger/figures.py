"""Every privacy figure of an entry, computed again from the event it states.

Renyi figures must replay within RELATIVE_TOLERANCE (and as much absolutely), PLD within PLD_TOLERANCE.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from privacy.accounting import (
    ACCOUNTANT,
    MAX_COUNT,
    MAX_EVENTS,
    ORDERS,
    PLD_LIMIT_EPSILON,
    PLD_TOLERANCE,
    RELATIVE_TOLERANCE,
    Composed,
    Event,
    Gaussian,
    PoissonSampled,
    SelfComposed,
    SharedGaussian,
    noise_event,
    pld_bound,
    pld_epsilon,
    rdp_epsilon,
    rdp_vector,
    sampled_gaussian,
)
from privacy.budget import BudgetPolicy, Unit
from privacy.errors import VerificationError
from privacy.fields import first_complaint
from privacy.ledger.entry import (
    AnyEntry,
)
from privacy.ledger.parts import Charge, LocalNoise, Mechanism
from privacy.ledger.replay import Budgets

_NEXT = "Recompute it with the accountant the entry names."


@dataclass(frozen=True)
class PopulationReport:
    """What one population's budget comes to. `spent_pld_epsilon` is the tighter figure, None where not computed."""

    population: str
    unit: Unit
    epsilon: float
    delta: float
    spent_epsilon: float
    charged_epsilon: float
    left_epsilon: float
    spent_pld_epsilon: float | None
    rounds_committed: int
    rounds_reserved: int


def check_figures(entry: AnyEntry) -> None:
    """Recompute what the entry states about itself alone. Raises VerificationError naming the figure."""
    match entry.kind:
        case "reserve" | "commit":
            _check_run(entry.charge, entry.mechanism)
        case "policy":
            BudgetPolicy(entry.population, entry.epsilon, entry.delta, entry.unit)
            if entry.orders != ORDERS:
                raise VerificationError("orders", "not the orders this accountant composes at", _NEXT)
        case "refuse" if entry.asked is not None:
            check_charge(entry.asked.charge)
        case "job-approval" if entry.charge is not None:
            check_charge(entry.charge)
        case _:
            pass


def _check_run(charge: Charge, mechanism: Mechanism) -> None:
    """The charge is right, and that of this mechanism. Remembered by identity: equal ones are decoded as one object."""
    pair = id(charge), id(mechanism)
    if pair in _RIGHT:
        return
    check_charge(charge)
    if charge.event != _event_of(mechanism):
        raise VerificationError("event", "not what q, noise multiplier and steps say", _NEXT)
    if len(_RIGHT) >= _REMEMBERED:
        _RIGHT.clear()
    _RIGHT[pair] = charge, mechanism


_REMEMBERED = 1024
_RIGHT: dict[tuple[int, int], tuple[Charge, Mechanism]] = {}
"""Charges with mechanisms that were found right; while they are kept here, nothing else gets their identities."""


def check_charge(charge: Charge) -> None:
    """Recompute vector, epsilon and PLD epsilon of a charge. Raises VerificationError naming the figure."""
    if charge.accountant != ACCOUNTANT:
        raise VerificationError("accountant", f"{charge.accountant!r} cannot be replayed here", _NEXT)
    vector = rdp_vector(charge.event)
    if not all(_near(a, b, RELATIVE_TOLERANCE) for a, b in zip(vector, charge.rdp, strict=True)):
        raise VerificationError("rdp", "the Renyi vector is not that of the event", _NEXT)
    epsilon = rdp_epsilon(vector, charge.delta)
    if not _near(epsilon, charge.epsilon, RELATIVE_TOLERANCE):
        raise VerificationError("epsilon", f"{charge.epsilon:.6f} is stated, {epsilon:.6f} is right", _NEXT)
    pld = pld_epsilon(charge.event, charge.delta)
    stated = charge.epsilon_pld
    same = pld is None and stated is None
    if not same and (pld is None or stated is None or not _near(pld, stated, PLD_TOLERANCE)):
        raise VerificationError("epsilon_pld", f"{stated} is stated, {pld} is right", _NEXT)


def near(stated: float, right: float) -> bool:
    """Whether two Renyi epsilons are the same figure, replayed."""
    return _near(stated, right, RELATIVE_TOLERANCE)


def report_populations(budgets: Budgets, executed: Mapping[str, Sequence[Event]]) -> tuple[PopulationReport, ...]:
    """One row per population, by name; `executed` has the events that were committed."""
    return tuple(
        PopulationReport(
            population=name,
            unit=state.policy.unit,
            epsilon=state.policy.epsilon,
            delta=state.policy.delta,
            spent_epsilon=state.spent_epsilon,
            charged_epsilon=state.charged_epsilon,
            left_epsilon=state.left_epsilon,
            spent_pld_epsilon=total_pld(executed.get(name, ()), state.policy.delta, state.spent_epsilon),
            rounds_committed=len(executed.get(name, ())),
            rounds_reserved=len(state.reserved),
        )
        for name, state in sorted(budgets.items())
    )


def total_pld(events: Sequence[Event], delta: float, renyi: float) -> float | None:
    """PLD epsilon of all events together, equal mechanisms merged; None if too many differ, or noise was shared.

    `renyi` is their Renyi epsilon at this delta, which is not computed again.
    """
    counts: dict[Gaussian | SharedGaussian | PoissonSampled, int] = {}
    objects = {id(event): event for event in events}  # of which there are few: equal ones are decoded as one
    for ident, times in Counter(map(id, events)).items():
        event = objects[ident]
        parts = event.events if isinstance(event, Composed) else (event,)
        for part in parts:
            one, count = (part.event, part.count) if isinstance(part, SelfComposed) else (part, 1)
            counts[one] = counts.get(one, 0) + count * times
    if not counts:
        return 0.0
    if renyi > PLD_LIMIT_EPSILON:
        return None
    if len(counts) > MAX_EVENTS or max(counts.values()) > MAX_COUNT:
        return None
    together = Composed(events=tuple(SelfComposed(count=n, event=one) for one, n in counts.items()))
    return pld_bound(together, delta)


def _event_of(mechanism: Mechanism) -> SelfComposed | Composed:
    shares = 1 if isinstance(mechanism, LocalNoise) else mechanism.noise_shares
    try:
        ran = sampled_gaussian(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps_planned, shares)
        if mechanism.validation_noise_multiplier is None:
            return ran
        return Composed(events=(ran, noise_event(mechanism.validation_noise_multiplier, shares)))
    except ValidationError as error:
        raise VerificationError("mechanism", first_complaint(error), _NEXT) from error


def _near(first: float, second: float, tolerance: float) -> bool:
    return math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)
