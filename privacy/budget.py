"""The privacy budget of one population: Available -> Reserved -> Spent, pure.

The filter. A budget (epsilon, delta) caps the Renyi divergence of order a at cap(a) = epsilon - conversion(a, delta).
The Renyi filter of Feldman and Zrnic (2008.11193) is valid when mechanisms and their parameters are chosen from
everything released before, *at an order fixed in advance*. So one order is fixed per
population, with the first reservation, before anything about the population is released: the order at which most
such rounds fit. From then on a round is admitted only if the sum at that order stays within cap. For rounds of one
kind this admits exactly as many as the best order would; for mixtures it may admit fewer. "Some order is under its
cap" would not be valid with the same delta, since which order that is depends on what was released
(docs/explanation/accounting.md).

An approval is a grant: a job may have so many charged rounds of one cost, and no other rounds. So "at most" in what a
steward is told before approving holds whatever aggregator and coordinator do. A refusal takes it back.

A sub-cap (privacy/sub_caps.py) is a limit within that: for any one job, or for all jobs of one purpose. Every change of
the cap keeps what was spent, and the order of the filter.

A state is a value: every function returns the next one or raises and changes nothing. Who stores it does so durably
before acting on it. A reservation that is never committed or refunded stays: a crash counts as spent.
"""

import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from immutables import Map

from privacy.accounting import (
    GRID,
    ORDERS,
    ZERO,
    Vector,
    add,
    check_vector,
    conversion,
    rdp_epsilon,
    times,
)
from privacy.errors import ConfigError, InternalError, Refused
from privacy.fields import NAME
from privacy.forecast import Forecast
from privacy.sub_caps import NONE, Account, SubCaps, first_excess

FILTER: Final = "rdp-fixed-order/v1"
"""The admission rule above; a policy entry names it. Another rule gets another name."""

Unit = Literal["record", "patient"]
"""Whose presence a budget protects; it is sampled at most once a step (contribution bound 1)."""

RefusalCode = Literal["over-cap", "over-sub-cap", "grant-used-up", "not-approved", "number-used", "unit", "delta"]

LARGEST_EPSILON = 1000.0
_INDEX = {order: index for index, order in enumerate(ORDERS)}
_JOB = re.compile(r"[0-9a-f]{64}")


class BudgetRefusal(Refused):
    """A budget says no. `code` is what goes on record; the words are for whoever asked."""

    def __init__(self, code: RefusalCode, what: str, why: str, next_step: str) -> None:
        super().__init__(what, why, next_step)
        self.code = code


@lru_cache(4096)
def _is_job(text: str) -> bool:
    return _JOB.fullmatch(text) is not None


class _Round(NamedTuple):
    job: str
    round_number: int


class RoundKey(_Round):
    """What a reservation is for: a job (its plan digest in hex) and a round number from 0 of it, used once ever."""

    __slots__ = ()

    def __new__(cls, job: str, round_number: int) -> Self:
        """Raises InternalError for what is none."""
        if not _is_job(job) or round_number < 0:
            raise InternalError("round key", "not a plan digest and a round number", "Report this.")
        return tuple.__new__(cls, (job, round_number))

    def __str__(self) -> str:
        """As messages name it."""
        return f"round {self.round_number} of job {self.job[:12]}"


@dataclass(frozen=True)
class BudgetPolicy:
    """The lifetime cap of one population at its institution. Raises ConfigError outside what can be enforced."""

    population: str
    epsilon: float
    delta: float
    unit: Unit

    def __post_init__(self) -> None:
        """Raises ConfigError for a name or figures that cannot be enforced."""
        next_step = "Give an epsilon in (0, 1000] and a delta in (0, 0.1), well under one over the population's size."
        if not NAME.fullmatch(self.population):
            why, instead = f"{self.population[:80]!r} is not a name", "up to 63 lower-case letters, digits and hyphens"
            raise ConfigError("budget population", why, f"Use {instead}.")
        what = f"budget of {self.population}"
        if not 0 < self.epsilon <= LARGEST_EPSILON:
            raise ConfigError(what, f"epsilon is {self.epsilon}", next_step)
        if not 0 < self.delta < 0.1:
            raise ConfigError(what, f"delta is {self.delta}", next_step)
        if self.unit not in get_args(Unit):
            raise ConfigError(what, f"unit is {str(self.unit)[:80]!r}", "Protect each record or each patient.")

    @cached_property
    def caps(self) -> tuple[float, ...]:
        """The largest sum of Renyi divergences at each of ORDERS, rounded down to GRID; negative where unusable."""
        exact = (self.epsilon - conversion(order, self.delta) for order in ORDERS)
        return tuple(math.floor(cap / GRID) * GRID for cap in exact)


@dataclass(frozen=True)
class Grant:
    """What one job was approved for: this many charged rounds, each of this Renyi vector; `committed` are charged."""

    vector: Vector
    rounds: int
    committed: int = 0


@dataclass(frozen=True)
class BudgetState:
    """What a population has spent (committed), set aside (reserved), closed for good, and granted to jobs (by digest);
    what each job that was ever approved has charged, and the sub-caps.

    Invariants: once `filter_order` is fixed, `total` at that order is at most the policy's cap at that order; a job's
    committed and reserved rounds are at most those it was granted.
    """

    policy: BudgetPolicy
    filter_order: float | None
    committed: Vector
    reserved: Map[RoundKey, Vector] = Map()
    closed: Map[RoundKey, None] = Map()
    grants: Map[str, Grant] = Map()
    accounts: Map[str, Account] = Map()
    sub_caps: SubCaps = field(default=NONE)
    total: Vector = field(init=False, compare=False, repr=False)  # committed and reserved: gone if everything runs

    def __post_init__(self) -> None:
        """Adds up `total`."""
        object.__setattr__(self, "total", _sum(self.committed, self.reserved))

    def moved(self, **changes: Any) -> Self:  # noqa: ANN401 - what fields hold
        """As `replace` and several times quicker, for a round's move; it takes the total from whoever knows it."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **changes)
        return made

    @property
    def spent_epsilon(self) -> float:
        """Epsilon of what was committed (Renyi, best order)."""
        return rdp_epsilon(self.committed, self.policy.delta)

    @property
    def charged_epsilon(self) -> float:
        """Epsilon of committed and reserved together; never above the policy's."""
        return rdp_epsilon(self.total, self.policy.delta) if self.reserved else self.spent_epsilon

    @property
    def left_epsilon(self) -> float:
        """The policy's epsilon less what is charged. Epsilons don't add up: ask `what_if` what still fits."""
        return max(0.0, self.policy.epsilon - self.charged_epsilon)

    def rounds_left(self, job: str) -> int:
        """How many more rounds a job may reserve under its approval; 0 without one. Refunded rounds don't count."""
        grant_ = self.grants.get(job)
        if grant_ is None:
            return 0
        return grant_.rounds - grant_.committed - [key.job for key in self.reserved].count(job)

    def of_job(self, job: str) -> Vector:
        """What a job has committed and reserved together."""
        account = self.accounts.get(job)
        total = ZERO if account is None else account.committed
        for key, vector in self.reserved.items():
            if key.job == job:
                total = add(total, vector)
        return total

    def purpose_epsilon(self, purpose: str) -> float:
        """Epsilon of all that jobs of this purpose have committed and reserved (Renyi, best order)."""
        total = ZERO
        for job, account in self.accounts.items():
            if account.purpose == purpose:
                total = add(total, self.of_job(job))
        return rdp_epsilon(total, self.policy.delta)


def first_budget(existing: BudgetState | None, policy: BudgetPolicy) -> BudgetState:
    """The budget of a population that has none. Raises Refused if it has one, whatever the new figures are."""
    if existing is not None:
        old = existing.policy
        raise Refused(
            f"budget of {policy.population}",
            f"it is set to epsilon {old.epsilon:g} at delta {old.delta:g}, of which {existing.charged_epsilon:.3f} "
            "is charged, and one person alone cannot change a budget",
            "A change takes the signatures of two administrators: `cloister silo budget change`.",
        )
    return BudgetState(policy, None, ZERO)


def what_if(state: BudgetState, vector: Vector, rounds: int) -> Forecast:
    """What `rounds` more rounds of this Renyi vector would cost, and how many of them fit."""
    index = _order_index(state, vector)
    after = add(state.total, times(vector, rounds))
    candidates = range(len(ORDERS)) if state.filter_order is None else (index,)
    needed = min(after[i] + conversion(ORDERS[i], state.policy.delta) for i in candidates) + GRID
    return Forecast(
        rounds_asked=rounds,
        rounds_that_fit=_rounds_that_fit(state, vector, index),
        epsilon_before=state.charged_epsilon,
        epsilon_after=rdp_epsilon(after, state.policy.delta),
        epsilon_needed=max(0.0, needed),
    )


def check_sub_caps(state: BudgetState, job: str, purpose: str, vector: Vector, rounds: int) -> None:
    """So many more rounds of this vector are within the job's and the purpose's sub-caps. Raises BudgetRefusal."""
    if state.sub_caps is NONE or state.sub_caps == NONE:
        return
    others = (state.of_job(other) for other, a in state.accounts.items() if a.purpose == purpose and other != job)
    more, delta = times(vector, rounds), state.policy.delta
    excess = first_excess(state.sub_caps, delta, purpose, state.of_job(job), others, more)
    if excess is None:
        return
    whose = "one job" if excess.purpose is None else f"the purpose {excess.purpose!r}"
    raise BudgetRefusal(
        "over-sub-cap",
        f"budget of {state.policy.population}",
        f"{whose} may spend epsilon {excess.cap:g} of it; {rounds} rounds would bring that from {excess.before:.3f} to "
        f"{excess.after:.3f}",
        "Ask the coordinator for fewer rounds or more noise; raising a sub-cap takes two administrators.",
    )


def grant(state: BudgetState, job: str, vector: Vector, rounds: int, purpose: str) -> BudgetState:
    """Approve a job (its plan digest in hex) for so many charged rounds of this vector, and for nothing else.

    Raises BudgetRefusal if not all of them fit, or a sub-cap would be passed; Refused if the job is approved already,
    or had another purpose before.
    """
    if job in state.grants:
        raise Refused(f"job {job[:12]}", "is approved already", "An approval stands as it was given.")
    account = state.accounts.get(job, Account(purpose))
    if account.purpose != purpose:
        raise Refused(f"job {job[:12]}", f"was approved for {account.purpose!r} before", "A job keeps its purpose.")
    forecast = what_if(state, vector, rounds)
    if not forecast.fits:
        raise over_cap(state, f"{rounds} rounds", forecast, "")
    check_sub_caps(state, job, purpose, vector, rounds)
    accounts = state.accounts.set(job, account)
    return replace(state, grants=state.grants.set(job, Grant(vector, rounds)), accounts=accounts)


def withdraw(state: BudgetState, job: str) -> BudgetState:
    """Take a job's approval back, if it has one: no round is reserved for it any more, unless it is approved anew.

    What is reserved stays so until it is charged or refunded.
    """
    if job not in state.grants:
        return state
    return replace(state, grants=state.grants.delete(job))


def reserve(state: BudgetState, key: RoundKey, vector: Vector) -> BudgetState:
    """Set aside what a round will cost, before its first gradient.

    The same key with the same vector while it is reserved changes nothing (a retry after a crash). Raises
    BudgetRefusal if the round was committed or refunded before, is reserved with another vector, is not one of those
    its job was approved for, or doesn't fit.
    """
    check_vector(vector)
    if key in state.closed:
        raise BudgetRefusal(
            "number-used",
            f"budget of {state.policy.population}",
            f"{key} was charged or refunded before",
            "A round number is used once; go on with the next round.",
        )
    if key in state.reserved:
        if state.reserved[key] == vector:
            return state
        raise BudgetRefusal(
            "number-used",
            f"budget of {state.policy.population}",
            f"{key} is reserved for another mechanism",
            "A round keeps the mechanism it was reserved with; go on with the next round.",
        )
    _check_granted(state, key.job, vector)
    index = _order_index(state, vector)
    if state.total[index] + vector[index] > state.policy.caps[index]:
        raise over_cap(state, str(key), what_if(state, vector, 1), "")
    check_sub_caps(state, key.job, state.accounts[key.job].purpose, vector, 1)
    total, reserved = add(state.total, vector), state.reserved.set(key, vector)
    return state.moved(total=total, filter_order=ORDERS[index], reserved=reserved)


def commit(state: BudgetState, key: RoundKey, executed: Vector) -> BudgetState:
    """Charge what ran, for good. Raises InternalError if nothing is reserved for it or more ran than was reserved."""
    reserved = _reservation(state, key)
    all_ran = executed is reserved or executed == reserved  # most often they are one object
    if not all_ran and any(ran > held for ran, held in zip(check_vector(executed), reserved, strict=True)):
        raise InternalError(
            f"budget of {state.policy.population}",
            f"more ran in {key} than was reserved for it",
            "Stop the agent and report this; the reservation stands as spent.",
        )
    rest, grants = state.reserved.delete(key), state.grants
    granted = grants.get(key.job)
    if granted is not None:  # else it was withdrawn while the round was under way
        grants = grants.set(key.job, Grant(granted.vector, granted.rounds, granted.committed + 1))
    total = state.total if all_ran else _sum(add(state.committed, executed), rest)
    return state.moved(
        total=total,
        committed=add(state.committed, executed) if rest else total,
        reserved=rest,
        closed=state.closed.set(key, None),
        grants=grants,
        accounts=state.accounts.set(key.job, state.accounts[key.job].charged(executed)),
    )


def refund(state: BudgetState, key: RoundKey) -> BudgetState:
    """Give back a reservation whose round released nothing. Raises InternalError if nothing is reserved for it."""
    _reservation(state, key)
    return replace(state, reserved=state.reserved.delete(key), closed=state.closed.set(key, None))


def _sum(committed: Vector, reserved: Map[RoundKey, Vector]) -> Vector:
    total = committed
    for vector in reserved.values():
        total = add(total, vector)
    return total


def _check_granted(state: BudgetState, job: str, vector: Vector) -> None:
    granted, what = state.grants.get(job), f"budget of {state.policy.population}"
    if granted is None or granted.vector != vector:
        why = "is not approved" if granted is None else "was approved for rounds of another cost"
        raise BudgetRefusal("not-approved", what, f"job {job[:12]} {why}", "A steward decides: `cloister silo jobs`.")
    if state.rounds_left(job) <= 0:
        raise BudgetRefusal(
            "grant-used-up",
            what,
            f"job {job[:12]} has used the {granted.rounds} rounds it was approved for",
            "Nothing was spent on this one. Rounds that fail are charged too: approve jobs with --extra-rounds.",
        )


def _order_index(state: BudgetState, vector: Vector) -> int:
    """Index of the fixed order, or of the one at which most rounds of this vector fit while none is fixed."""
    if state.filter_order is not None:
        return _INDEX[state.filter_order]
    if not all(check_vector(vector)):
        raise InternalError("Renyi vector", "a mechanism costs something at every order", "Report this.")
    ratios = [cap / value for cap, value in zip(state.policy.caps, vector, strict=True)]
    return ratios.index(max(ratios))


def _rounds_that_fit(state: BudgetState, vector: Vector, index: int) -> int:
    """How many more rounds of this vector the filter admits, at the order of this index."""
    room = round((state.policy.caps[index] - state.total[index]) / GRID)
    return max(0, room // round(check_vector(vector)[index] / GRID))


def _reservation(state: BudgetState, key: RoundKey) -> Vector:
    held = state.reserved.get(key)
    if held is None:
        what, why = f"budget of {state.policy.population}", f"nothing is reserved for {key}"
        raise InternalError(what, why, "Report this; reserving comes before training.")
    return held


def over_cap(state: BudgetState, asked: str, forecast: Forecast, more: str) -> BudgetRefusal:
    """The refusal of what does not fit, with cap, spent, left, and what would fit."""
    policy = state.policy
    needed = math.ceil(forecast.epsilon_needed * 1000) / 1000
    why = (
        f"{asked} would bring epsilon from {forecast.epsilon_before:.3f} to {forecast.epsilon_after:.3f}; the cap is "
        f"{policy.epsilon:g} at delta {policy.delta:g}, {state.spent_epsilon:.3f} is spent, {state.left_epsilon:.3f} "
        "is left"
    )
    fit = f"{forecast.rounds_that_fit} such rounds still fit; all of it would take a cap of {needed:.3f}."
    return BudgetRefusal("over-cap", f"budget of {policy.population}", why, f"{fit} {more}".strip())
