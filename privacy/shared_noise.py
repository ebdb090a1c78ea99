"""Noise that the silos of a sum share: how a clipped sum lies on the grid, and how much noise each silo adds.

In a round each silo sums the clipped gradients of one step, scales and rounds that sum to integers, and adds discrete
Gaussian noise of variance (sigma * sensitivity)^2 / shares to each. Whoever sees a sum with at least `shares` honest
members sees the noise that one trusted server would have added (Kairouz, Liu, Steinke, arXiv 2102.06387; what it costs
is privacy.accounting's `SharedGaussian`; docs/adr/0012 has the argument). Nothing here touches data.

Three things hang on each other, since all take room on a grid of b bits:

- scale (kappa): grid steps per unit of gradient, one for all coordinates, so that an L2 norm stays one.
- sensitivity: how far one unit of privacy moves the rounded sum (L2, in grid steps). Rounding is floor(x + u) with u
  uniform, which does not depend on data. Let D = kappa * C. With the same u, what two neighbours' sums differ by is
  d + r, ||d|| <= D, where the r_k are independent, of mean 0, each in an interval of length 1. So 2 d.r exceeds
  D sqrt(2 L), and r.r exceeds values/4 + sqrt(values L / 2), with probability exp(-L) each (Hoeffding); L = 70 leaves
  2^-100 in all, counted with the sampler's own statistical distance. Never is it more than D + sqrt(values).
- margin: how far from the ends of the grid a sum is kept. No noise reaches further, so that it is never cut off:
  cutting each share off would not be a function of the noised whole.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from privacy.errors import ConfigError

FLOAT_MARGIN = 1e-3  # C is taken so much larger, for float32's rounding of a sum
LOG_FAILURE = 70.0
TAIL = 13.5  # deviations; a discrete Gaussian is further out with probability below 2^-128
EVEN_SHARES = 10.0  # room for a coordinate: so many times its even share of an expected batch's clipped gradients
LEAST_VARIANCE = 100  # of a share; a sum of such shares is a discrete Gaussian up to a factor within 1 +- e^-900
MOST_ROUNDING_COST = 1.0


@dataclass(frozen=True)
class SharedGrid:
    """One silo's mechanism on the grid: public, the same at every silo."""

    bits: int
    scale: float  # grid steps per unit of gradient
    sensitivity: float  # in grid steps
    variance: int  # of the noise one silo adds to each coordinate, in squared grid steps
    margin: int
    reach: float  # half the grid in units of gradient / expected batch size: R of a tensor is its step size times this
    rounding_cost: float  # 0.1: a tenth more noise than with real numbers

    @property
    def top(self) -> int:
        """The largest grid value."""
        return (1 << self.bits) - 1

    @property
    def exact_variance(self) -> Fraction:
        """As the sampler takes it."""
        return Fraction(self.variance)


def shared_grid(
    *, clip_l2: float, noise_multiplier: float, shares: int, expected_batch_size: float, values: int, bits: int
) -> SharedGrid:
    """The finest grid on which sum and noise have room. Raises ConfigError, with what would help, where none is fine
    enough.
    """
    half = ((1 << bits) - 1) / 2
    room = expected_batch_size * min(1.0, EVEN_SHARES / math.sqrt(values)) / (1 + FLOAT_MARGIN)
    per_step = noise_multiplier / math.sqrt(shares)  # a share's deviation per grid step of sensitivity

    def fits(reach: float) -> bool:  # reach: D, in grid steps
        return room * reach + TAIL * per_step * _sensitivity(reach, values) + 2 <= half

    low, high = 0.0, half
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    sensitivity = _sensitivity(low, values)
    variance = math.ceil((sensitivity * per_step) ** 2)
    if low * (1 + MOST_ROUNDING_COST) < sensitivity or variance < LEAST_VARIANCE:
        raise ConfigError(
            "shared noise",
            f"{values} values at noise multiplier {noise_multiplier:g}, shared by {shares}, leave a grid of {bits} "
            "bits too coarse: rounding would at least double the noise",
            "Train fewer values (the head, a lower rank), lower the noise multiplier, set grid_bits = 16, or use local "
            "noise.",
        )
    scale = low / (clip_l2 * (1 + FLOAT_MARGIN))
    return SharedGrid(
        bits=bits,
        scale=scale,
        sensitivity=sensitivity,
        variance=variance,
        margin=math.ceil(TAIL * math.sqrt(variance)),
        reach=half / (scale * expected_batch_size),
        rounding_cost=sensitivity / low - 1,
    )


def _sensitivity(reach: float, values: int) -> float:
    """The L2 sensitivity, in grid steps, of the rounded sum, when that of the sum is `reach`."""
    likely = reach**2 + reach * math.sqrt(2 * LOG_FAILURE) + values / 4 + math.sqrt(values * LOG_FAILURE / 2) + 1
    return min(math.sqrt(likely), reach + math.sqrt(values))
