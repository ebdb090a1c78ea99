"""What a mechanism costs: events that say what ran, and the two accountants that price them.

An *event* is a small closed grammar (Gaussian, Poisson-sampled Gaussian, repetitions, compositions), the part of
dp_accounting's events that both of its accountants price, and the Gaussian that silos share. It travels as canonical
JSON; decoding builds one of these classes and never imports what the data names. Adjacency is add-or-remove-one
throughout.

Renyi figures (Mironov 1702.07476; sampled Gaussian: Mironov, Talwar, Zhang 1908.10530) are the ones a budget is
enforced with. They are rounded up to multiples of 2^-32, so that sums of them are exact in any order on any machine.
The privacy-loss-distribution figure (PLD) is tighter, stands beside, named, and never admits anything.
dp_accounting (with scipy, about a second) is imported by the functions that compute, not by this module.
"""

import math
import operator
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from privacy.errors import ConfigError, InternalError, ProtocolError
from privacy.fields import Strict, first_complaint
from privacy.mechanism import DpSgd
from privacy.thresholds import MOST_PARTICIPANTS

ACCOUNTANT: Final = "dp-accounting 0.6 rdp, orders/v1, 2^-32 up"
"""What every recorded figure was computed by. A change of orders, rounding or conversion changes this string."""

ORDERS: Final[tuple[float, ...]] = (
    *(2.0, 3.0, 3.25, 3.5, 3.75, 4.0, 4.5, 5.0, 5.5),
    *(float(order) for order in range(6, 33)),
    *(36.0, 40.0, 44.0, 48.0, 56.0, 64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""The Renyi orders of every vector, for good (dp_accounting's series for fractional orders below 3.25 need not
converge near q = 0.5, and says so in the log)."""

_NEXT_WHOLE: Final = tuple(ORDERS.index(float(math.ceil(order))) for order in ORDERS)

GRID: Final = 2.0**-32
"""Every Renyi figure is a multiple of this, rounded up."""

UNBOUNDED: Final = 2.0**20
"""A Renyi figure that is this large, or larger, is recorded as this: no budget admits it at that order."""

RELATIVE_TOLERANCE: Final = 1e-9
"""How far a Renyi figure or an epsilon from it may differ when another machine replays it (plus 1e-9 absolute)."""

PLD_TOLERANCE: Final = 1e-4
"""The same for a PLD epsilon, relative and absolute: its transforms round differently from machine to machine."""

PLD_LIMIT_EPSILON: Final = 50.0
"""Above this Renyi epsilon no PLD figure is given: it would be slow, and the mechanism is not private anyway."""

LEAST_NOISE, MOST_NOISE = 0.01, 1e6
LEAST_PROBABILITY = 1e-30  # of a unit's being in a sample; near the smallest doubles the accountants lose their way
MAX_EVENTS = 64
MAX_COUNT = 1_000_000

Vector = tuple[float, ...]
"""Renyi divergences at ORDERS, each a multiple of GRID in [0, UNBOUNDED]."""


class _Checked(tuple[float, ...]):
    """A vector that was found to be one, or is made of such: it need not be looked at again.

    It remembers what it was priced at last: what a round charges is asked for again when the round is spent, and before
    the next one.
    """

    priced: tuple[float, float] | None = None  # a delta, and the epsilon at it


ZERO: Final[Vector] = _Checked((0.0,) * len(ORDERS))


class Gaussian(Strict):
    """Gaussian noise on a sum of vectors of bounded L2 norm; the multiplier is standard deviation / bound."""

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: Annotated[float, Field(ge=LEAST_NOISE, le=MOST_NOISE, allow_inf_nan=False)]


class SharedGaussian(Strict):
    """Discrete Gaussian noise on a rounded sum, of which each of `shares` honest silos adds an equal part.

    The multiplier is that of all shares together: standard deviation / L2 sensitivity of the rounded sum, both in grid
    steps (privacy.shared_noise). It costs this much only if so many of a sum's members are honest and nobody sees less
    than the whole sum. No PLD figure is known for it: in many dimensions a discrete Gaussian has no worst direction.
    """

    kind: Literal["shared-discrete-gaussian"] = "shared-discrete-gaussian"
    noise_multiplier: Annotated[float, Field(ge=LEAST_NOISE, le=MOST_NOISE, allow_inf_nan=False)]
    shares: Annotated[int, Field(ge=2, le=MOST_PARTICIPANTS)]


Noise = Annotated[Gaussian | SharedGaussian, Field(discriminator="kind")]


class PoissonSampled(Strict):
    """Each unit is in independently with this probability; then the Gaussian mechanism."""

    kind: Literal["poisson-sampled"] = "poisson-sampled"
    sampling_probability: Annotated[float, Field(ge=LEAST_PROBABILITY, le=1, allow_inf_nan=False)]
    event: Noise


class SelfComposed(Strict):
    """The same mechanism, this many times."""

    kind: Literal["self-composed"] = "self-composed"
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    event: Annotated[Gaussian | SharedGaussian | PoissonSampled, Field(discriminator="kind")]


Part = Annotated[Gaussian | SharedGaussian | PoissonSampled | SelfComposed, Field(discriminator="kind")]


class Composed(Strict):
    """Several mechanisms, one after the other."""

    kind: Literal["composed"] = "composed"
    events: tuple[Part, ...] = Field(strict=False, min_length=1, max_length=MAX_EVENTS)


Event = Annotated[Gaussian | SharedGaussian | PoissonSampled | SelfComposed | Composed, Field(discriminator="kind")]
"""What ran. No deeper nesting exists, so that size and cost of an event are bounded."""

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def dp_sgd_event(dp: DpSgd, steps: int) -> SelfComposed:
    """The event of `steps` noisy steps under the plan's promises. Raises ConfigError for what cannot be priced."""
    try:
        return sampled_gaussian(dp.noise_multiplier, dp.sampling_rate, steps, dp.noise_shares)
    except ValidationError as error:
        raise ConfigError("[dp] of the job", first_complaint(error), "Correct the job file.") from error


def round_event(dp: DpSgd, steps: int) -> SelfComposed | Composed:
    """The event of a round in which so many steps ran: they, and the validation sums where the plan has them.

    Raises ConfigError for what cannot be priced.
    """
    ran = dp_sgd_event(dp, steps)
    if dp.metrics is None:
        return ran
    try:
        return Composed(events=(ran, noise_event(dp.metrics.noise_multiplier, dp.noise_shares)))
    except ValidationError as error:
        raise ConfigError("[metrics] of the job", first_complaint(error), "Correct the job file.") from error


def noise_event(noise_multiplier: float, shares: int = 1) -> Gaussian | SharedGaussian:
    """Gaussian noise; shared, if more than one silo's share makes up the multiplier. Raises ValidationError."""
    if shares == 1:
        return Gaussian(noise_multiplier=noise_multiplier)
    return SharedGaussian(noise_multiplier=noise_multiplier, shares=shares)


def sampled_gaussian(noise_multiplier: float, q: float, steps: int, shares: int = 1) -> SelfComposed:
    """So many steps of Poisson-sampled Gaussian noise; shared, if more than one silo's share makes up the multiplier.

    Raises ValidationError for what is outside the grammar's bounds.
    """
    noise = noise_event(noise_multiplier, shares)
    return SelfComposed(count=steps, event=PoissonSampled(sampling_probability=q, event=noise))


_E = TypeVar("_E", bound=Strict)


def unshared(event: _E) -> _E:
    """What an event costs if the silo's own share is all the noise there is: no other member honest, or its update
    seen alone. The event itself where nothing is shared.
    """
    changed: dict[str, object] = {}
    match event:
        case SharedGaussian(noise_multiplier=all_shares, shares=shares):
            changed = {"noise_multiplier": max(LEAST_NOISE, all_shares / math.sqrt(shares))}
        case PoissonSampled() | SelfComposed():
            changed = {"event": unshared(event.event)}
        case Composed():
            changed = {"events": tuple(unshared(part) for part in event.events)}
    return event.model_copy(update=changed)  # an event of the same kind


def by_record_event(dp: DpSgd, steps: int, records: int) -> SelfComposed | Composed | None:
    """What a promise to each record, sampled by itself, is to a person with this many of them; None: nothing at all.

    A step draws some of the person's records with probability 1 - (1 - q)^records, and then at most all of them, which
    move the sum by `records` clips: an upper bound (Dwork and Roth 2014, theorem 2.2, for the sampled mechanism).
    """
    if dp.noise_multiplier / records < LEAST_NOISE:
        return None
    rate = dp.sampling_rate
    q = 1.0 if rate == 1 else -math.expm1(records * math.log1p(-rate))  # exact for small rates
    ran = sampled_gaussian(dp.noise_multiplier / records, q, steps, dp.noise_shares)
    if dp.metrics is None:
        return ran
    published = noise_event(max(LEAST_NOISE, dp.metrics.noise_multiplier / records), dp.noise_shares)
    return Composed(events=(ran, SelfComposed(count=steps // dp.steps_per_round, event=published)))


def encode_event(event: Event) -> dict[str, Any]:
    """The event as a JSON value."""
    return event.model_dump(mode="json")


def decode_event(value: object) -> Event:
    """The event a JSON value means. Raises ProtocolError for anything outside the grammar and its bounds."""
    try:
        return _EVENT.validate_python(value)
    except ValidationError as error:
        raise ProtocolError(
            "mechanism event", first_complaint(error), "Only the events of docs/reference/ledger-format.md are priced."
        ) from error


def from_dp_event(event: Any) -> Event:  # noqa: ANN401 - dp_accounting has no types
    """Our event for a dp_accounting one. Raises InternalError for a class outside the grammar."""
    return decode_event(_tree(event))


def as_dp_event(event: Event) -> Any:  # noqa: ANN401 - dp_accounting has no types
    """The dp_accounting event, to price it or to compare it with what an engine recorded.

    A shared Gaussian becomes the continuous one of the same multiplier; `rdp_vector` says what that is good for.
    """
    import dp_accounting

    match event:
        case Gaussian() | SharedGaussian():
            return dp_accounting.GaussianDpEvent(event.noise_multiplier)
        case PoissonSampled():
            return dp_accounting.PoissonSampledDpEvent(event.sampling_probability, as_dp_event(event.event))
        case SelfComposed():
            return dp_accounting.SelfComposedDpEvent(as_dp_event(event.event), event.count)
        case Composed():
            return dp_accounting.ComposedDpEvent([as_dp_event(part) for part in event.events])


@lru_cache(maxsize=512)
def rdp_vector(event: Event) -> Vector:
    """Renyi divergence of the event at ORDERS, rounded up to GRID (about 15 ms; remembered).

    Orders at which the figure is infinite or above UNBOUNDED are UNBOUNDED; none is zero. With shared noise every order
    has the figure of the next whole order: there, and only there, the sampled discrete Gaussian costs what the sampled
    continuous one does (a moment of whole order shifts the lattice by whole steps; docs/adr/0012).
    """
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=list(ORDERS))
    accountant.compose(as_dp_event(event))
    vector = tuple(_up(float(value)) for value in accountant._rdp)  # noqa: SLF001 - dp_accounting has no getter
    shared = is_shared(event)
    return check_vector(tuple(vector[_NEXT_WHOLE[i]] for i in range(len(ORDERS))) if shared else vector)


def is_shared(event: Event) -> bool:
    """Whether any of its noise is."""
    match event:
        case SharedGaussian():
            return True
        case Gaussian():
            return False
        case PoissonSampled() | SelfComposed():
            return is_shared(event.event)
        case Composed():
            return any(is_shared(each) for each in event.events)


def pld_epsilon(event: Event, delta: float) -> float | None:
    """Epsilon at delta by privacy loss distributions, an upper bound (0.1 s - 2 s; remembered).

    None if the Renyi epsilon is above PLD_LIMIT_EPSILON, for shared noise, and where the accountant has no finite
    figure: at a delta near what its transforms cut off, or with all but certain sampling.
    """
    return pld_bound(event, delta) if rdp_epsilon(rdp_vector(event), delta) <= PLD_LIMIT_EPSILON else None


@lru_cache(maxsize=512)
def pld_bound(event: Event, delta: float) -> float | None:
    """As `pld_epsilon`, of an event whose Renyi epsilon is known to be within PLD_LIMIT_EPSILON."""
    if is_shared(event):
        return None
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    try:
        accountant.compose(as_dp_event(event))
        epsilon = float(accountant.get_epsilon(delta))
    except (ValueError, ArithmeticError):  # the grid on which it puts losses has no room for those of this event
        return None
    return epsilon if math.isfinite(epsilon) else None


def conversion(order: float, delta: float) -> float:
    """What a Renyi bound at this order gains on its way to (epsilon, delta).

    epsilon = rdp + log(1 - 1/order) - log(delta * order) / (order - 1): Canonne, Kamath, Steinke 2004.00010,
    Proposition 12. Raises InternalError outside 0 < delta < 1 < order.
    """
    if not (0 < delta < 1 < order):
        raise InternalError("privacy accounting", f"order {order} at delta {delta}", "Report this.")
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


@lru_cache(maxsize=64)
def _conversions(delta: float) -> tuple[float, ...]:
    return tuple(conversion(order, delta) for order in ORDERS)


def rdp_epsilon(vector: Vector, delta: float) -> float:
    """Epsilon at delta of a Renyi vector: the best over ORDERS, 0 for nothing spent, at most about UNBOUNDED."""
    checked = check_vector(vector)
    priced = checked.priced
    if priced is None or priced[0] != delta:
        best: float = min(map(operator.add, checked, _conversions(delta)))
        checked.priced = priced = delta, max(0.0, best) if any(checked) else 0.0
    return priced[1]


def add(first: Vector, second: Vector) -> Vector:
    """Composition: the exact sum, order by order, at most UNBOUNDED."""
    if isinstance(first, _Checked) and isinstance(second, _Checked):
        return _bounded(map(operator.add, first, second))
    return tuple(min(a + b, UNBOUNDED) for a, b in zip(first, second, strict=True))


def times(vector: Vector, count: int) -> Vector:
    """`count` compositions of the same mechanism, exactly what as many `add`s give."""
    if isinstance(vector, _Checked) and count >= 0:
        return _bounded(map(float(count).__mul__, vector))
    return tuple(min(value * count, UNBOUNDED) for value in vector)


def _bounded(sums: Iterable[float]) -> _Checked:
    """Sums of checked figures. They are exact, and so multiples of GRID, up to UNBOUNDED, where they are cut off."""
    return _Checked([each if each < UNBOUNDED else UNBOUNDED for each in sums])  # noqa: FURB136 - min takes longer


def check_vector(vector: Vector) -> _Checked:
    """The vector. Raises InternalError unless it has one multiple of GRID in [0, UNBOUNDED] per order."""
    if isinstance(vector, _Checked):
        return vector
    if len(vector) != len(ORDERS) or not all(0 <= v <= UNBOUNDED and (v / GRID).is_integer() for v in vector):
        raise InternalError("Renyi vector", "not one rounded figure per order", "Report this; nothing was spent.")
    return _Checked(vector)


def noise_multiplier_for(
    epsilon: float, delta: float, q: float, steps: int, shares: int = 1, beside: Vector = ZERO
) -> float:
    """The smallest noise multiplier, to four decimals, whose steps cost at most epsilon (Renyi) at delta, together with
    what is spent `beside` them.

    Raises ConfigError if even the largest that can be priced costs more, naming what was asked.
    """

    def fits(ten_thousandths: int) -> bool:
        event = sampled_gaussian(ten_thousandths / 10_000, q, steps, shares)
        return rdp_epsilon(add(rdp_vector(event), beside), delta) <= epsilon

    low, high = 100, 100_000_000
    if not fits(high):
        raise ConfigError(
            "noise multiplier",
            f"none up to {high // 10_000} keeps {steps} steps at q={q} within epsilon {epsilon} at delta {delta}",
            "Allow a larger epsilon or delta, fewer steps, or more noise on [metrics] if there are any.",
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low / 10_000


def _up(value: float) -> float:
    """The next multiple of GRID that is at least `value`, in [GRID, UNBOUNDED]; NaN is unbounded."""
    if not value < UNBOUNDED:
        return UNBOUNDED
    return max(math.ceil(value / GRID), 1) * GRID


def _tree(event: Any) -> dict[str, Any]:  # noqa: ANN401 - dp_accounting has no types
    """The JSON value of a dp_accounting event of the four known classes, by its exact class."""
    import dp_accounting

    if type(event) is dp_accounting.GaussianDpEvent:
        return {"kind": "gaussian", "noise_multiplier": float(event.noise_multiplier)}
    if type(event) is dp_accounting.PoissonSampledDpEvent:
        probability = float(event.sampling_probability)
        return {"kind": "poisson-sampled", "sampling_probability": probability, "event": _tree(event.event)}
    if type(event) is dp_accounting.SelfComposedDpEvent:
        return {"kind": "self-composed", "count": int(event.count), "event": _tree(event.event)}
    if type(event) is dp_accounting.ComposedDpEvent:
        return {"kind": "composed", "events": [_tree(part) for part in event.events]}
    raise InternalError("mechanism event", f"{type(event).__name__} cannot be priced", "Report this; nothing ran.")
