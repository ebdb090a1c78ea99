"""The aggregator with colluding silos, against shared noise: how much noise is left of what they see.

What one-time keys give them is the sum less their own updates (test_multikey_server_plus_one_silo.py). The colluders
add no noise at all, or take off what they added. Up to c of them, what is left is the noise that the plan promises;
with one more it is not, and the attack says by how much. With local noise nobody depends on anybody.
"""

import numpy as np
import pytest
import torch

from privacy.accounting import rdp_epsilon, rdp_vector, sampled_gaussian
from privacy.ckks.sampling import SecureBits
from privacy.dp.shared import ShareOfNoise
from privacy.shared_noise import shared_grid

MINIMUM, COLLUDERS = 5, 2
HONEST = MINIMUM - COLLUDERS
SIGMA, VALUES = 2.0, 60_000
GRID = shared_grid(clip_l2=1.0, noise_multiplier=SIGMA, shares=HONEST, expected_batch_size=32.0, values=VALUES, bits=16)
PROMISED = SIGMA * GRID.sensitivity
FIVE_ERRORS = 5 / np.sqrt(2 * VALUES)


def seen_by(colluders: int) -> np.ndarray:
    """The sum of the smallest round less what the colluders sent, about its mean: noise, and what the honest summed."""
    sums = torch.zeros(VALUES, dtype=torch.float64)
    honest = [ShareOfNoise(GRID, SecureBits()).cover(sums).astype(np.int64) for _ in range(MINIMUM - colluders)]
    silent = [np.full(VALUES, 12_345, np.int64) for _ in range(colluders)]
    total = np.sum([*honest, *silent], axis=0)
    return total - np.sum(silent, axis=0) - len(honest) * GRID.top / 2


@pytest.mark.parametrize("colluders", range(COLLUDERS + 1))
def test_up_to_c_colluders_see_no_less_noise_than_was_promised(colluders: int) -> None:
    assert seen_by(colluders).std() > PROMISED * (1 - FIVE_ERRORS)


def test_one_colluder_more_sees_less_and_the_promise_is_broken() -> None:
    left = seen_by(COLLUDERS + 1).std() / GRID.sensitivity
    assert left < SIGMA * (1 - FIVE_ERRORS)
    assert left == pytest.approx(SIGMA * np.sqrt((HONEST - 1) / HONEST), rel=0.02)
    promised, real = (rdp_epsilon(rdp_vector(sampled_gaussian(m, 0.5, 20, HONEST)), 1e-3) for m in (SIGMA, left))
    assert real > 1.2 * promised


def test_a_share_of_one_silo_is_no_promise_either() -> None:
    """Whoever could open one update (as with ckks-group, which such a plan may not choose) sees a share alone."""
    alone = seen_by(MINIMUM - 1).std() / GRID.sensitivity
    assert alone == pytest.approx(SIGMA / np.sqrt(HONEST), rel=0.02)
