import numpy as np
import pytest

from privacy.errors import ConfigError, InternalError
from privacy.quantise import blocks_on_grid, grid_step, mean_from_sum, quantise, quantise_blocks, round_to_grid


def words(*values):
    return np.array(values, np.uint32)


def ranged(vector, update_range=1.0):
    return np.full(len(vector), update_range, np.float32)


def test_the_ends_of_the_range_are_the_ends_of_the_grid_whatever_the_randomness():
    vector = np.array([-1, -1, 1, 1, -7, 7], np.float32)
    last = 2**32 - 1
    grid = round_to_grid(vector, ranged(vector), 16, words(0, last, 0, last, last, last))
    assert grid.tolist() == [0, 0, 65535, 65535, 0, 65535]


def test_between_grid_values_the_randomness_decides():
    vector = np.zeros(2, np.float32)  # lies half-way between 32767 and 32768
    assert round_to_grid(vector, ranged(vector), 16, words(2**31 - 1, 2**31)).tolist() == [32767, 32768]


def test_ranges_are_per_coordinate():
    vector = np.array([0.5, 0.5], np.float32)
    assert round_to_grid(vector, np.array([0.5, 1.0], np.float32), 8, words(0, 0)).tolist() == [255, 191]


def test_rounding_is_random_and_never_further_than_one_step():
    vector = np.linspace(-1, 1, 100_000, dtype=np.float32)
    first, second = quantise(vector, ranged(vector), 8), quantise(vector, ranged(vector), 8)
    assert (first != second).mean() > 0.2
    exact = (vector.astype(np.float64) + 1) * 127.5
    assert np.abs(first - exact).max() < 1


def test_mean_of_many_roundings_is_the_value():
    vector = np.full(400_000, 0.3, np.float32)
    mean = mean_from_sum(quantise(vector, ranged(vector), 8).astype(np.uint32), ranged(vector), 8, 1).mean()
    # the standard deviation of the mean is at most grid_step / 2 / sqrt(400,000)
    assert abs(mean - float(np.float32(0.3))) < 6 * grid_step(1.0, 8) / 2 / 632


def test_blocks_are_the_vector_in_order_with_a_shorter_last():
    vector = np.array([-1, 1] * 5, np.float32)
    blocks = list(quantise_blocks(vector, ranged(vector), 16, 4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert np.concatenate(blocks).tolist() == [0, 65535] * 5


def test_mean_divides_by_the_total_weight():
    ranges = np.array([1, 1, 4], np.float32)
    assert mean_from_sum(np.array([0, 4 * 255, 3 * 255], np.uint32), ranges, 8, 4).tolist() == [-1, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    vector = np.array([0, bad], np.float32)
    with pytest.raises(ConfigError, match=r"update: holds values that are not finite.*Lower the learning rates"):
        quantise(vector, ranged(vector), 16)


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_a_range_that_is_not_positive_is_our_bug(bad):
    with pytest.raises(InternalError, match="not positive and finite"):
        quantise(np.zeros(2, np.float32), np.array([1, bad], np.float32), 16)


def test_shapes_must_agree():
    with pytest.raises(InternalError, match="differ in shape"):
        quantise(np.zeros(2, np.float32), np.ones(3, np.float32), 16)
    with pytest.raises(InternalError, match="differ in shape"):
        round_to_grid(np.zeros(2, np.float32), np.ones(2, np.float32), 16, words(0))


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_outside_the_grid_are_refused(bits):
    with pytest.raises(InternalError, match="grid bits"):
        grid_step(1.0, bits)


@pytest.mark.parametrize(("total", "weight"), [(256, 1), (0, 0)])
def test_a_sum_that_cannot_be_is_refused(total, weight):
    with pytest.raises(InternalError, match="does not fit"):
        mean_from_sum(np.array([total], np.uint32), np.ones(1, np.float32), 8, weight)


def test_what_is_on_the_grid_already_is_cut_into_blocks_and_stays_as_it_is():
    update = np.arange(20_000, dtype=np.uint16)
    blocks = list(blocks_on_grid(update, np.ones(20_000, np.float32), 16))
    assert [len(block) for block in blocks] == [8192, 8192, 3616]
    np.testing.assert_array_equal(np.concatenate(blocks), update)


@pytest.mark.parametrize(
    ("update", "bits"),
    [
        (np.array([0, 256], np.uint16), 8),
        (np.array([0, 1, 2], np.uint16), 16),
        (np.array([0, 1], np.int32), 16),
        (np.array([0.0, 1.0]), 16),
    ],
)
def test_what_is_not_on_the_grid_is_a_bug(update, bits):
    with pytest.raises(InternalError, match="not on a grid"):
        list(blocks_on_grid(update, np.ones(2, np.float32), bits))
