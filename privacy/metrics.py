"""Validation figures that a round publishes: noised sums over the silos' held-out parts, beside the update.

Each held-out unit of privacy gives three numbers, its records' means: correct - 1/2, loss / bound - 1/2 with the loss
cut off at the bound, and 1/2. The silo sums them over its units and noises the sum; they travel as three more
coordinates of its update, so only the sum over silos is ever opened. It is charged like a gradient step. Centred at
zero the vector of a unit has an L2 norm of at most sqrt(3)/2, where (correct, loss / bound, 1) would have twice that.

The silos validate the adapter that the round starts from: the figures of round r are of what round r - 1 came to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy.errors import VerificationError

COORDINATES = 3
SENSITIVITY = math.sqrt(COORDINATES) / 2
NOISE_DEVIATIONS = 6.0
DROWNED = 4.0  # so many deviations the number of units must be above zero for the rest to mean anything


@dataclass(frozen=True)
class Validation:
    """What a round's figures say; noise is in all of them, so accuracy may be below 0 or above 1."""

    accuracy: float
    loss: float  # mean cross-entropy, of losses cut off at the bound
    units: float  # held-out units of all members together
    accuracy_error: float  # one deviation of the noise in `accuracy`


def validation(sums: Sequence[float], deviation: float, loss_bound: float) -> Validation | None:
    """From the members' noised sums, added; `deviation` is that of the noise in them.

    None where there are too few units for their number to stand out from its noise.
    """
    if len(sums) != COORDINATES:
        raise VerificationError("validation", f"has {len(sums)} sums", "Report this.")
    correct, loss, halves = sums
    units = 2 * halves
    if halves < DROWNED * deviation:
        return None
    above = correct / units
    return Validation(
        accuracy=0.5 + above,
        loss=loss_bound * (0.5 + loss / units),
        units=units,
        accuracy_error=deviation / units * math.sqrt(1 + 4 * above**2),
    )
