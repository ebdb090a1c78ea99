"""Poisson sampling of units, and of one record per patient."""

import numpy as np
import pytest

from privacy.dp.randomness import Randomness
from privacy.dp.sampler import OneRecordPerUnit, PoissonSampler
from privacy.errors import ConfigError, InternalError


def bits(seed: int) -> np.random.Generator:
    return Randomness.deterministic_for_tests(seed).sampling


def test_sizes_are_binomial_not_fixed() -> None:
    sampler = PoissonSampler(200, 0.25, bits(1))
    sizes = np.array([len(sampler.draw()) for _ in range(2000)])
    assert abs(sizes.mean() - 50) < 1  # standard error 0.14
    assert 30 < sizes.var() < 45  # 200 * .25 * .75 = 37.5; a fixed-size sampler has 0


def test_units_join_independently_and_equally() -> None:
    sampler = PoissonSampler(10, 0.4, bits(2))
    joined = np.zeros((4000, 10))
    for step in joined:
        step[sampler.draw()] = 1
    np.testing.assert_allclose(joined.mean(axis=0), 0.4, atol=0.04)  # 5 standard errors
    correlation = np.corrcoef(joined.T) - np.eye(10)
    assert np.abs(correlation).max() < 0.09


def test_draws_are_sorted_int64_and_distinct() -> None:
    drawn = PoissonSampler(1000, 0.5).draw()
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    assert 0 <= drawn[0] <= drawn[-1] < 1000


def test_rate_one_takes_everybody_and_small_rates_take_nobody_at_times() -> None:
    np.testing.assert_array_equal(PoissonSampler(5, 1.0).draw(), np.arange(5))
    tiny = PoissonSampler(3, 1e-9, bits(3)).draw()
    assert tiny.dtype == np.int64
    assert len(tiny) == 0


def test_two_samplers_differ_whatever_the_global_seeds() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(42)
        draws.append(PoissonSampler(200, 0.5).draw())
    assert not np.array_equal(*draws)


def test_no_unit_is_the_operators_error() -> None:
    with pytest.raises(ConfigError, match="no unit of privacy"):
        PoissonSampler(0, 0.5)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, float("nan")])
def test_rates_outside_zero_to_one_are_a_bug(rate: float) -> None:
    with pytest.raises(InternalError, match="sampling rate"):
        PoissonSampler(5, rate)


def test_one_record_of_each_drawn_patient_chosen_uniformly() -> None:
    patients = OneRecordPerUnit([[7], [3, 4, 5, 6], [0, 1, 2]], bits(4))
    assert patients.units == 3
    picks = np.array([patients.pick(np.array([1, 0])) for _ in range(4000)])
    assert (picks[:, 1] == 7).all()
    counts = np.bincount(picks[:, 0], minlength=8)
    assert counts.sum() == 4000
    assert (np.abs(counts[3:7] - 1000) < 150).all()  # 5.5 standard deviations


def test_no_drawn_patient_gives_no_record() -> None:
    picked = OneRecordPerUnit([[1, 2]]).pick(np.array([], dtype=np.int64))
    assert picked.dtype == np.int64
    assert len(picked) == 0


def test_patient_without_a_record_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no record"):
        OneRecordPerUnit([[1], []])
