"""A round's noised sum on the grid, where silos share the noise (privacy.shared_noise says how much, and why)."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privacy.ckks.sampling import SecureBits, draw_wide_gaussian
from privacy.dp.allowlist import check_allowed
from privacy.dp.engine import (
    ClippedGradients,
    Examples,
    Executed,
    clipped_sum,
    dropout_off,
    trained_parameters,
)
from privacy.dp.randomness import Randomness
from privacy.dp.sampler import PoissonSampler
from privacy.errors import InternalError
from privacy.mechanism import DpSgd
from privacy.shared_noise import SharedGrid

GridValues = npt.NDArray[np.uint16]
WORD_BYTES = 4


def sum_round(
    model: nn.Module,
    examples: Examples,
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    grid: SharedGrid,
    *,
    randomness: Randomness | None = None,
    max_physical_batch: int = 64,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[GridValues, Executed]:
    """One step's clipped sum, rounded and noised: grid values in the order of the model's trained parameters.

    The model stays where it is: the step itself is the mean of all silos' sums. Everything else, and what is raised, as
    `privacy.dp.engine.train_round` with clipping by hooks.
    """
    check_allowed(model)
    parameters = trained_parameters(model, learning_rates)
    if mechanism.noise != "shared" or mechanism.steps_per_round != 1 or max_physical_batch < 1:
        raise InternalError("shared noise", "asked of a mechanism without, or of several steps", "Report this.")
    bits = Randomness.from_os() if randomness is None else randomness
    noise = ShareOfNoise(grid, share_bits(randomness))
    units = PoissonSampler(examples.units, mechanism.sampling_rate, bits.sampling).draw()
    with dropout_off(model), ClippedGradients(model, parameters, "hooks") as gradients:
        total = clipped_sum(units, examples, gradients, mechanism.clip_l2, max_physical_batch)
    noised = noise.cover(total)
    if on_step is not None:
        on_step(1, 1)
    return noised, Executed(1, noise.additions, int(len(units) == 0))


class ShareOfNoise:
    """One silo's share: rounds sums to the grid and covers them, and counts how often it did."""

    def __init__(self, grid: SharedGrid, bits: SecureBits) -> None:
        self._grid = grid
        self._bits = bits
        self._additions = 0

    @property
    def additions(self) -> int:
        """How many sums it covered: the count is what the accountant charges."""
        return self._additions

    def cover(self, total: torch.Tensor) -> GridValues:
        """floor(top/2 - scale * total + u), kept `margin` from both ends, plus discrete Gaussian noise of `variance`.

        The sign is a descent's: a larger gradient sum moves the parameters down. u is uniform, a multiple of 2^-32.
        Raises InternalError on a sum that is not float64 or not finite, and if noise left its margin.
        """
        grid = self._grid
        if total.dtype != torch.float64 or not bool(torch.isfinite(total).all()):
            raise InternalError("shared noise", f"asked to cover {total.dtype}, or what is not finite", "Report this.")
        position = total.numpy() * -grid.scale
        position += grid.top / 2
        np.clip(position, grid.margin, grid.top - grid.margin, out=position)
        words = np.frombuffer(self._bits.take(WORD_BYTES * len(position)), "<u4")
        rounded = np.floor(position + words * 2.0**-32).astype(np.int32)
        noise = draw_wide_gaussian(grid.exact_variance, len(position), self._bits)
        if len(noise) and int(np.abs(noise).max()) > grid.margin:
            raise InternalError("shared noise", "is wider than the margin that was left for it", "Report this.")
        self._additions += 1
        return (rounded + noise).astype(np.uint16)


def share_bits(randomness: Randomness | None) -> SecureBits:
    """Where a share's bits come from: a fresh stream; for tests and benchmarks, one that repeats as `randomness`."""
    return SecureBits() if randomness is None else SecureBits.from_key_for_tests(randomness.noise.bytes(32))
