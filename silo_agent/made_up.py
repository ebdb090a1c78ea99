"""What a job's noise costs in accuracy, on made-up data: the same federated DP-SGD on a linear classifier.

Numbers of the job file alone go in, no record does. The task is of middling difficulty: classes are Gaussian clouds in
64 dimensions around random centres. It says how much accuracy the noise takes there, which is a hint for a job on real
features and no promise.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from privacy.mechanism import DpSgd

Floats = npt.NDArray[np.float64]
FEATURES: Final = 64
CENTRE: Final = 1.6  # how far the classes' centres lie from the origin, in deviations of a feature
HELD_OUT: Final = 4000
RUNS: Final = 3
MOST_RECORDS: Final = 5000  # of one silo; more would only take longer
MOST_STEPS: Final = 4000


@dataclass(frozen=True)
class MadeUp:
    """The size of the federation and of its task."""

    silos: int
    records: int  # of each silo: the size for which the job's batches are as large as they are expected to be
    classes: int
    rounds: int
    learning_rate: float


@dataclass(frozen=True)
class Utility:
    """Mean accuracy over RUNS on made-up held-out records, without noise (clipping included) and with it."""

    without_noise: float
    with_noise: float
    rounds_run: int


def utility(task: MadeUp, dp: DpSgd) -> Utility:
    """Train both ways on the same made-up data, RUNS times. Deterministic: the seeds are fixed and protect nothing."""
    rounds = min(task.rounds, max(1, MOST_STEPS // dp.steps_per_round))
    pairs = [[_accuracy(task, dp, rounds, seed, noise) for noise in (0.0, 1.0)] for seed in range(RUNS)]
    without, with_noise = np.mean(pairs, axis=0)
    return Utility(float(without), float(with_noise), rounds)


def _accuracy(task: MadeUp, dp: DpSgd, rounds: int, seed: int, noise: float) -> float:
    bits = np.random.default_rng(seed)
    centres = bits.normal(size=(task.classes, FEATURES))
    centres *= CENTRE / np.linalg.norm(centres, axis=1, keepdims=True)
    silos = [_records(centres, min(task.records, MOST_RECORDS), bits) for _ in range(task.silos)]
    held_out, labels = _records(centres, HELD_OUT, bits)
    weights = np.zeros((FEATURES + 1, task.classes))
    for _ in range(rounds):
        weights = np.mean([_local(weights, *silo, task, dp, noise, bits) for silo in silos], axis=0)
    return float(np.mean(np.argmax(held_out @ weights, axis=1) == labels))


def _records(centres: Floats, count: int, bits: np.random.Generator) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Features with a column of ones behind them, and classes."""
    labels = bits.integers(len(centres), size=count)
    features = centres[labels] + bits.normal(size=(count, FEATURES))
    return np.hstack([features, np.ones((count, 1))]), labels


def _local(
    weights: Floats,
    features: Floats,
    labels: npt.NDArray[np.int64],
    task: MadeUp,
    dp: DpSgd,
    noise: float,
    bits: np.random.Generator,
) -> Floats:
    """One silo's round: Poisson samples of the rate, gradients clipped one by one, the job's noise."""
    deviation = noise * dp.noise_multiplier * dp.clip_l2
    if dp.noise == "shared":
        deviation /= np.sqrt(task.silos)  # the silos' shares together are the noise of one sum
    for _ in range(dp.steps_per_round):
        chosen = np.flatnonzero(bits.random(len(labels)) < dp.sampling_rate)
        gradient = _clipped_sum(weights, features[chosen], labels[chosen], dp.clip_l2)
        gradient += deviation * bits.normal(size=weights.shape)
        weights = weights - task.learning_rate * gradient / (dp.sampling_rate * len(labels))
    return weights


def _clipped_sum(weights: Floats, features: Floats, labels: npt.NDArray[np.int64], clip: float) -> Floats:
    logits = features @ weights
    errors = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(labels) else logits
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    norms = np.linalg.norm(errors, axis=1) * np.linalg.norm(features, axis=1)
    scale = np.minimum(1.0, clip / np.maximum(norms, 1e-12))
    summed: Floats = features.T @ (errors * scale[:, None])
    return summed
