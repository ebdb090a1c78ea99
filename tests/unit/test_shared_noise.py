"""The grid of shared noise: room, sensitivity and shares, against what rounding and noise really do."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from privacy.errors import ConfigError
from privacy.shared_noise import EVEN_SHARES, LEAST_VARIANCE, TAIL, SharedGrid, shared_grid


def grid(sigma: float = 2.0, shares: int = 3, batch: float = 64.0, values: int = 1000, **other: float) -> SharedGrid:
    asked = {"clip_l2": 0.7, "bits": 16, **other}
    return shared_grid(noise_multiplier=sigma, shares=shares, expected_batch_size=batch, values=values, **asked)


@given(
    st.floats(0.3, 20), st.integers(2, 50), st.floats(1, 2000), st.integers(2, 3_000_000), st.floats(1e-4, 1e4),
    st.integers(8, 16),
)  # fmt: skip
def test_sum_and_noise_have_room_and_the_shares_make_up_the_noise(sigma, shares, batch, values, clip, bits):
    try:
        found = grid(sigma, shares, batch, values, clip_l2=clip, bits=bits)
    except ConfigError:
        assume(False)
    even = batch * clip * min(1, EVEN_SHARES / math.sqrt(values))
    assert found.margin + found.scale * even <= found.top / 2
    assert found.margin >= TAIL * math.sqrt(found.variance)
    assert shares * found.variance >= (sigma * found.sensitivity) ** 2
    assert shares * (found.variance - 1) < (sigma * found.sensitivity) ** 2
    assert found.scale * clip < found.sensitivity <= found.scale * clip * 2.002
    assert found.variance >= LEAST_VARIANCE
    assert found.reach == pytest.approx(found.top / 2 / found.scale / batch)


@pytest.mark.parametrize("changes", [{"values": 3_000_000, "sigma": 6.5}, {"bits": 8}, {"batch": 1e7, "values": 100}])
def test_a_grid_too_coarse_is_refused_with_what_would_help(changes):
    with pytest.raises(ConfigError, match=r"rounding would at least double the noise\. Train fewer values"):
        grid(**changes)


def rounded(position: np.ndarray, dither: np.ndarray) -> np.ndarray:
    return np.floor(position + dither)


@pytest.mark.parametrize("values", [1, 2, 50, 4000, 200_000])
@pytest.mark.parametrize("spread", ["even", "one coordinate", "halves", "random"])
def test_rounding_moves_neighbours_no_further_apart_than_the_sensitivity(values, spread):
    """With the same dither; what is measured comes within a few per cent of the bound, so that it says something."""
    found = grid(values=values, batch=16.0)
    reach = found.scale * 0.7
    bits = np.random.default_rng(values)
    match spread:
        case "even":
            shift = np.full(values, reach / math.sqrt(values))
        case "one coordinate":
            shift = np.zeros(values)
            shift[0] = reach
        case "halves":
            shift = np.full(values, 0.5)
            shift[0] += math.sqrt(max(0.0, reach**2 - 0.25 * values))
        case _:
            shift = bits.normal(size=values)
    shift *= reach / np.linalg.norm(shift)
    distances = []
    for _ in range(20):
        one, dither = bits.uniform(20_000, 40_000, values), bits.uniform(size=values)
        distances.append(np.linalg.norm(rounded(one + shift, dither) - rounded(one, dither)))
    assert max(distances) <= found.sensitivity
    assert max(distances) > 0.9 * reach


def test_more_honest_members_mean_less_noise_each_and_never_less_together():
    grids = [grid(shares=shares) for shares in (2, 3, 5, 10, 50)]
    for few, many in pairwise(grids):
        assert few.variance / few.sensitivity**2 > many.variance / many.sensitivity**2
        assert many.scale > few.scale
