"""What the demo's result stands beside: the majority class, each hospital alone, all together without privacy.

Same model, same split, same steps and learning rates; without privacy means without clipping and without noise.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from privacy.dp.engine import train_round
from privacy.dp.randomness import Randomness
from privacy.errors import ConfigError
from privacy.mechanism import DpSgd
from privacy.plan import JobPlan
from privacy.server import first_moments, server_step
from silo_agent.datasets import Dataset
from silo_agent.train import Evaluation, Training

Float32 = npt.NDArray[np.float32]
NO_CLIP_L2 = 1e3  # far above any example's gradient
NO_NOISE = 1e-12  # a mechanism must name its noise; this is none in float32


def majority_accuracy(datasets: Mapping[str, Dataset]) -> dict[str, float]:
    """Per hospital, the held-out accuracy of always saying its training part's most frequent class."""
    accuracy = {}
    for name, dataset in datasets.items():
        majority = np.bincount(dataset.training.labels).argmax()
        accuracy[name] = float((dataset.held_out.labels == majority).mean())
    return accuracy


def train_together_without_privacy(
    plan: JobPlan, trainings: Mapping[str, Training], start: Float32, seed: int
) -> dict[str, Evaluation]:
    """The job's rounds with neither clip nor noise; every hospital's evaluation of the common adapter.

    A proximal term and the server optimiser are the plan's.
    """
    mechanism, moments = _without_privacy(plan, None), first_moments(plan.server, plan.values)
    vector = start
    for round_number in range(plan.rounds):
        updates = [
            _update(training, vector, mechanism, (seed, round_number, i))
            for i, training in enumerate(trainings.values())
        ]
        mean = np.asarray(np.mean(updates, axis=0, dtype=np.float64))
        vector = (vector + server_step(plan.server, mean, moments)).astype(np.float32)
    return {name: training.evaluate(vector) for name, training in trainings.items()}


def train_alone_without_privacy(
    plan: JobPlan, trainings: Mapping[str, Training], start: Float32, seed: int
) -> dict[str, Evaluation]:
    """Each hospital by itself, dividing by its own expected batch: it owes nobody a public divisor."""
    found = {}
    for i, (name, training) in enumerate(trainings.items()):
        mechanism, vector = _without_privacy(plan, training), start
        for round_number in range(plan.rounds):
            vector = vector + _update(training, vector, mechanism, (seed, round_number, i))
        found[name] = training.evaluate(vector)
    return found


def train_pooled_without_privacy(
    plan: JobPlan, pooled: Training, trainings: Mapping[str, Training], start: Float32, seed: int
) -> dict[str, Evaluation]:
    """`pooled` has all hospitals' training parts as one; every hospital's evaluation of what comes of it."""
    mechanism, vector = _without_privacy(plan, pooled), start
    for round_number in range(plan.rounds):
        vector = vector + _update(pooled, vector, mechanism, (seed, round_number, 0))
    return {name: training.evaluate(vector) for name, training in trainings.items()}


def _without_privacy(plan: JobPlan, alone: Training | None) -> DpSgd:
    if plan.dp is None:
        raise ConfigError(f"job {plan.name!r}", "trains no model", "Use a job on data.")
    batch = plan.dp.expected_batch_size if alone is None else plan.dp.sampling_rate * alone.examples.units
    return plan.dp.model_copy(
        update={"clip_l2": NO_CLIP_L2, "noise_multiplier": NO_NOISE, "expected_batch_size": batch}
    )


def _update(training: Training, vector: Float32, mechanism: DpSgd, draw: tuple[int, int, int]) -> Float32:
    seed, round_number, hospital = draw
    bits = Randomness.deterministic_for_tests((seed * 1000 + round_number) * 100 + hospital)
    training.load(vector)
    train_round(training.module, training.examples, mechanism, training.learning_rates, randomness=bits)
    return training.vector() - vector
