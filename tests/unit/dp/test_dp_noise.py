"""The noise: its distribution, its source, and the count that is charged."""

import os

import numpy as np
import pytest
import torch

from privacy.dp.noise import GaussianNoise
from privacy.dp.randomness import Randomness
from privacy.errors import InternalError


def drawn(noise: GaussianNoise, size: int, std: float) -> np.ndarray:
    tensor = torch.zeros(size, dtype=torch.float64)
    noise.add_(tensor, std)
    return tensor.numpy()


def test_values_are_normal_with_the_given_deviation() -> None:
    values = drawn(GaussianNoise(Randomness.deterministic_for_tests(1).noise), 200_000, 3.0) / 3.0
    assert abs(values.mean()) < 0.012  # 5 standard errors
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.15  # uniform noise has 1.8, Laplace 6
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.006
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.012


def test_noise_is_added_and_additions_are_counted() -> None:
    noise = GaussianNoise()
    tensor = torch.full((2, 3), 1e6, dtype=torch.float64)
    noise.add_(tensor, 1.0)
    noise.add_(tensor, 1.0)
    assert noise.additions == 2
    assert (tensor != 1e6).all()
    assert (tensor - 1e6).abs().max() < 20


def test_torch_and_numpy_seeds_do_not_reach_the_noise() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        draws.append(drawn(GaussianNoise(), 50, 1.0))
    assert not np.isclose(*draws).any()


def test_test_randomness_repeats_and_its_streams_differ() -> None:
    first, again, other = (Randomness.deterministic_for_tests(seed) for seed in (5, 5, 6))
    expected = first.noise.random(20)
    np.testing.assert_array_equal(again.noise.random(20), expected)
    assert not np.isclose(other.noise.random(20), expected).any()
    assert not np.isclose(again.sampling.random(20), expected).any()


@pytest.mark.parametrize("std", [0.0, -1.0, float("inf"), float("nan")])
def test_meaningless_deviations_are_a_bug(std: float) -> None:
    noise = GaussianNoise()
    with pytest.raises(InternalError, match="standard deviation"):
        noise.add_(torch.zeros(1, dtype=torch.float64), std)
    assert noise.additions == 0


def test_float32_is_a_bug() -> None:
    with pytest.raises(InternalError, match="float32"):
        GaussianNoise().add_(torch.zeros(1), 1.0)


def test_a_forked_process_does_not_repeat_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = GaussianNoise()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(InternalError, match="forked"):
        noise.add_(torch.zeros(1, dtype=torch.float64), 1.0)
