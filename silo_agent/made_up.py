"""What a job's noise costs in accuracy, on made-up data: the same federated DP-SGD on a linear classifier.

Numbers of the job file alone go in, no record does. The task is of middling difficulty: classes are Gaussian clouds in
64 dimensions around random centres. It says how much accuracy the noise takes there, which is a hint for a job on real
features and no promise.

What the noise takes hangs on the expected batch and not on how many records it is drawn from. So large silos are stood
for by MOST_RECORDS made-up records, sampled at the rate that keeps the batch, and a batch that is larger than those by
all of them with as much less noise. That leaves the noise in the mean gradient what it is in the job.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from privacy.mechanism import DpSgd

Floats = npt.NDArray[np.float64]
FEATURES: Final = 64
CENTRE: Final = 1.6  # how far the classes' centres lie from the origin, in deviations of a feature
HELD_OUT: Final = 4000
RUNS: Final = 3
MOST_RECORDS: Final = 5000  # of one silo; more would only take longer
MOST_STEPS: Final = 4000  # of one silo in all rounds
MOST_GRADIENTS: Final = 5_000_000  # of all silos in all rounds, of few classes: what takes about a minute
MANY_CLASSES: Final = 50  # with so many a gradient takes twice as long


@dataclass(frozen=True)
class MadeUp:
    """The size of the federation and of its task."""

    silos: int
    records: int  # of each silo, at least 1: the size of which the job's sampling rate makes its expected batch
    classes: int
    rounds: int
    learning_rate: float


@dataclass(frozen=True)
class Utility:
    """Mean accuracy over RUNS on made-up held-out records, without noise (clipping included) and with it; and what was
    run for it, where the job is larger.
    """

    without_noise: float
    with_noise: float
    rounds_run: int
    steps_run: int  # in each round
    records_run: int  # of each silo
    batch_run: float  # expected


@dataclass(frozen=True)
class _Run:
    """What is run for a task: as large as the job, or what stands for it."""

    rounds: int
    steps: int  # in each round
    records: int
    batch: float  # expected; the sum of gradients is divided by it
    deviation: float  # of the noise that a silo adds to that sum

    @classmethod
    def of(cls, task: MadeUp, dp: DpSgd) -> Self:
        records = min(task.records, MOST_RECORDS)
        batch = min(dp.expected_batch_size, float(records))
        gradients = task.silos * batch * (1 + task.classes / MANY_CLASSES)
        most = max(1, int(min(MOST_STEPS, MOST_GRADIENTS / gradients)))
        steps = min(dp.steps_per_round, most)
        deviation = dp.noise_multiplier * dp.clip_l2 * (batch / dp.expected_batch_size)
        if dp.noise == "shared":
            deviation /= np.sqrt(task.silos)  # the silos' shares together are the noise of one sum
        return cls(min(task.rounds, most // steps), steps, records, batch, deviation)

    @property
    def rate(self) -> float:
        return self.batch / self.records


def utility(task: MadeUp, dp: DpSgd) -> Utility:
    """Train both ways on the same made-up data, RUNS times. Deterministic: the seeds are fixed and protect nothing."""
    run = _Run.of(task, dp)
    quiet = replace(run, deviation=0.0)
    with np.errstate(all="ignore"):  # a learning rate may be anything: where training diverges, accuracy says so
        pairs = [[_accuracy(task, dp, each, seed) for each in (quiet, run)] for seed in range(RUNS)]
    without, with_noise = np.mean(pairs, axis=0)
    return Utility(float(without), float(with_noise), run.rounds, run.steps, run.records, run.batch)


def _accuracy(task: MadeUp, dp: DpSgd, run: _Run, seed: int) -> float:
    bits = np.random.default_rng(seed)
    centres = bits.normal(size=(task.classes, FEATURES))
    centres *= CENTRE / np.linalg.norm(centres, axis=1, keepdims=True)
    silos = [_records(centres, run.records, bits) for _ in range(task.silos)]
    held_out, labels = _records(centres, HELD_OUT, bits)
    weights = np.zeros((FEATURES + 1, task.classes))
    for _ in range(run.rounds):
        weights = np.mean([_local(weights, *silo, task.learning_rate, dp.clip_l2, run, bits) for silo in silos], axis=0)
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
    learning_rate: float,
    clip_l2: float,
    run: _Run,
    bits: np.random.Generator,
) -> Floats:
    """One silo's round: Poisson samples of the rate, gradients clipped one by one, the run's noise."""
    for _ in range(run.steps):
        chosen = np.flatnonzero(bits.random(len(labels)) < run.rate)
        gradient = _clipped_sum(weights, features[chosen], labels[chosen], clip_l2)
        gradient += run.deviation * bits.normal(size=weights.shape)
        weights = weights - learning_rate * gradient / run.batch
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
