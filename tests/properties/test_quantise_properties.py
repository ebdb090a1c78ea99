"""Flattening is a bijection; rounding is unbiased, monotone and off by less than a step, for every range and width."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.flatten import coordinate_ranges, flatten, unflatten
from privacy.quantise import grid_step, mean_from_sum, quantise, round_to_grid
from privacy.tasks import TensorSpec

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
RANGES = st.floats(1e-6, 1e6)
BITS = st.integers(8, 16)
SPREAD = (np.arange(2**12, dtype=np.uint64) * 2**20 + 2**19).astype(np.uint32)  # words that fill [0, 2^32) evenly


@st.composite
def updates(draw):
    shapes = draw(st.lists(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), min_size=1, max_size=5))
    specs = tuple(
        TensorSpec(name=f"t{i}", shape=shape, update_range=draw(RANGES), learning_rate=1.0)
        for i, shape in enumerate(shapes)
    )
    return specs, {spec.name: draw(hnp.arrays(np.float32, spec.shape, elements=FINITE)) for spec in specs}


@given(updates())
def test_unflatten_inverts_flatten(update):
    specs, tensors = update
    vector = flatten(tensors, specs)
    assert vector.shape == coordinate_ranges(specs).shape
    back = unflatten(vector, specs)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


@given(FINITE, RANGES, BITS)
def test_rounding_is_unbiased(value, update_range, bits):
    """Over evenly spread words the mean is the clipped value to within one part in 4096 of a grid step."""
    ranges = np.full(len(SPREAD), update_range, np.float32)
    grid = round_to_grid(np.full(len(SPREAD), value, np.float32), ranges, bits, SPREAD)
    limit = float(ranges[0])
    clipped = min(max(float(np.float32(value)), -limit), limit)
    expected = (clipped / limit + 1) * (2**bits - 1) / 2
    assert abs(grid.mean() - expected) <= 1.01 / len(SPREAD)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=FINITE), RANGES, BITS, st.integers(0, 2**32 - 1))
def test_rounding_is_monotone_in_the_value(vector, update_range, bits, word):
    vector = np.sort(vector)
    ranges = np.full(len(vector), update_range, np.float32)
    grid = round_to_grid(vector, ranges, bits, np.full(len(vector), word, np.uint32))
    assert (np.diff(grid.astype(np.int64)) >= 0).all()
    assert grid.max() <= 2**bits - 1


@settings(max_examples=50)
@given(hnp.arrays(np.float32, (5, 20), elements=FINITE), RANGES, BITS)
def test_mean_of_a_sum_is_within_a_step_of_the_mean_of_the_clipped(vectors, update_range, bits):
    ranges = np.full(20, update_range, np.float32)
    total = np.sum([quantise(vector, ranges, bits) for vector in vectors], axis=0, dtype=np.uint32)
    mean = mean_from_sum(total, ranges, bits, len(vectors))
    limit = float(ranges[0])
    exact = np.clip(vectors.astype(np.float64), -limit, limit).mean(axis=0)
    assert np.abs(mean - exact).max() < grid_step(limit, bits) * (1 + 1e-9)
