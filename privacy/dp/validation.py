"""A silo's validation sums: what one held-out unit may add, and the noise that covers them (privacy.metrics)."""

import numpy as np
import numpy.typing as npt
import torch

from privacy.dp.noise import GaussianNoise
from privacy.dp.randomness import Randomness
from privacy.dp.sampler import Indices
from privacy.dp.shared import ShareOfNoise, share_bits
from privacy.errors import InternalError
from privacy.mechanism import DpSgd, Metrics
from privacy.metrics import SENSITIVITY

Float64 = npt.NDArray[np.float64]


def held_out_sums(losses: Float64, correct: Float64, units: Indices, metrics: Metrics) -> Float64:
    """Sums over units of (correct - 1/2, loss / bound - 1/2, 1/2), each the mean of the unit's records.

    `losses` and `correct`, in [0, 1], are the records', `units` number each record's unit. One unit moves the result by
    at most SENSITIVITY (L2). A loss that is not finite counts as the bound.
    """
    finite = np.nan_to_num(losses, nan=metrics.loss_bound, posinf=metrics.loss_bound)
    each = np.stack([np.clip(correct, 0.0, 1.0), np.clip(finite / metrics.loss_bound, 0.0, 1.0)])
    weights = 1.0 / np.bincount(units)[units]  # a unit's records count as one together
    present = len(np.unique(units))
    return np.array([*(each @ weights - present / 2), present / 2])


def covered_sums(
    sums: Float64, dp: DpSgd, grid_bits: int, randomness: Randomness | None
) -> npt.NDArray[np.float32] | npt.NDArray[np.uint16]:
    """The sums under their noise: of this silo alone, to be rounded; or on the grid under this silo's share."""
    if dp.metrics is None:
        raise InternalError("validation", "asked of a plan without", "Report this.")
    total = torch.from_numpy(sums.copy())
    if dp.noise == "shared":
        grid = dp.metrics_grid(grid_bits)
        share = ShareOfNoise(grid, share_bits(randomness))
        return share.cover(-total)  # a share is of a descent; here more is more
    noise = GaussianNoise(None if randomness is None else randomness.noise)
    noise.add_(total, dp.metrics.noise_multiplier * SENSITIVITY)
    if noise.additions != 1:
        raise InternalError("validation", f"was noised {noise.additions} times", "Report this.")
    return total.numpy().astype(np.float32)
