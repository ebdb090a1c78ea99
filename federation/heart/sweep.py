"""`cloister bench heart --sweep`: FLamby's table on its own split, with and without privacy, beside its baselines.

The algorithms are the product's: FedProx's term is the engine's, the server optimisers run as at every silo. Their step
sizes were chosen on the training parts (docs/explanation/heart-benchmark.md), for epsilon 2, and stay the same
throughout. The head alone is trained, which on this data reaches what adapters and head do and takes a tenth of the
time.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from federation.heart.baselines import (
    majority_accuracy,
    train_alone_without_privacy,
    train_pooled_without_privacy,
    train_together_without_privacy,
)
from federation.heart.bench import OnProgress, head_only, made_plan, outcome_of, prepare, run_federation
from federation.heart.hospitals import HOSPITALS, job_file, load_hospital, model_folder
from privacy.errors import VerificationError
from runtime.config import load_config
from silo_agent.choices import ServerChoice
from silo_agent.datasets import Dataset, Part
from silo_agent.job_file import JobFile
from silo_agent.train import Evaluation, Training

EPSILONS = (1.0, 2.0, 4.0, 8.0)
RESAMPLES = 1000
PROXIMAL = 0.2
ADAM = ServerChoice(optimiser="adam", learning_rate=0.1)
YOGI = ServerChoice(optimiser="yogi", learning_rate=0.1)

Evaluations = Mapping[str, Evaluation]


@dataclass(frozen=True)
class Algorithm:
    """FedAvg, or what it becomes by a proximal term or another server optimiser."""

    name: str
    proximal: float = 0.0
    server: ServerChoice = field(default_factory=ServerChoice)
    noise: Literal["local", "shared"] = "local"


ALGORITHMS = (
    Algorithm("FedAvg"),
    Algorithm("FedAvg, shared noise", noise="shared"),
    Algorithm("FedProx", proximal=PROXIMAL),
    Algorithm("FedAdam", server=ADAM),
    Algorithm("FedYogi", server=YOGI),
)


@dataclass(frozen=True)
class Line:
    """One line of the table: means over seeds, and what resampling the held-out records makes of the AUC."""

    algorithm: str
    epsilon: float | None  # the target; None: without privacy
    spent: float | None  # the largest of the hospitals' verified epsilons (RDP)
    mean_accuracy: float
    mean_accuracy_deviation: float
    pooled_auc: float
    pooled_auc_low: float
    pooled_auc_high: float


def sweep_heart(seeds: int, on_progress: OnProgress) -> dict[str, Any]:
    """Every line of the table. Raises VerificationError if a run spends more than its target."""
    with tempfile.TemporaryDirectory() as scratch:
        datasets = {name: load_hospital(name, Path(scratch) / name) for name in HOSPITALS}
    whole = load_config(JobFile, job_file(), "", {})
    job = whole.model_copy(update={"adapter": head_only(whole.adapter)})
    lines = []
    for line in (*_baselines(job, datasets, seeds), *_federated(job, datasets, seeds)):
        lines.append(line)
        on_progress(f"{_title(line)}: {line.mean_accuracy:.3f} / {line.pooled_auc:.3f}")
    names = ["each alone", "pooled in one place", *(algorithm.name for algorithm in ALGORITHMS)]
    lines.sort(key=lambda line: (names.index(line.algorithm), line.epsilon or 0.0))
    return {"seeds": seeds, "majority": majority_accuracy(datasets), "lines": [asdict(line) for line in lines]}


def _title(line: Line) -> str:
    return f"{line.algorithm}, {'no privacy' if line.epsilon is None else f'epsilon {line.epsilon:g}'}"


def _baselines(job: JobFile, datasets: Mapping[str, Dataset], seeds: int) -> Iterator[Line]:
    plan, trainings, start = prepare(job, datasets)
    alone = [train_alone_without_privacy(plan, trainings, start, seed) for seed in range(seeds)]
    yield _line("each alone", None, None, alone)
    plan, artifact = made_plan(job, datasets)
    together = Training(plan, artifact, pooled(list(datasets.values())), model_folder())
    found = [train_pooled_without_privacy(plan, together, trainings, start, seed) for seed in range(seeds)]
    yield _line("pooled in one place", None, None, found)


def _federated(job: JobFile, datasets: Mapping[str, Dataset], seeds: int) -> Iterator[Line]:
    """What a hospital prepares hangs on the mechanism alone, so it is shared by the server optimisers."""
    for proximal, noise in sorted({(algorithm.proximal, algorithm.noise) for algorithm in ALGORITHMS}):
        those = [algorithm for algorithm in ALGORITHMS if (algorithm.proximal, algorithm.noise) == (proximal, noise)]
        for epsilon in EPSILONS:
            dp = job.dp.model_copy(update={"epsilon": epsilon, "proximal": proximal})
            with_dp = job.model_copy(update={"dp": dp})
            plan, trainings, start = prepare(sharing(with_dp) if noise == "shared" else with_dp, datasets)
            for algorithm in those:
                planned = plan.model_copy(update={"server": algorithm.server.fixed()})
                if epsilon == EPSILONS[0] and noise == "local":
                    found = [train_together_without_privacy(planned, trainings, start, seed) for seed in range(seeds)]
                    yield _line(algorithm.name, None, None, found)
                yield _private(algorithm, epsilon, [run_federation(planned, trainings, start, s) for s in range(seeds)])


def sharing(job: JobFile) -> JobFile:
    """The same steps, one a round, under noise that three honest of four hospitals make up: all four take part."""
    dp = job.dp.model_copy(update={"noise": "shared", "steps_per_round": 1})
    cohort = job.cohort.model_copy(update={"minimum": len(HOSPITALS), "tolerated_colluders": 1})
    rounds = job.rounds * job.dp.steps_per_round
    return job.model_copy(update={"dp": dp, "cohort": cohort, "rounds": rounds})


def _private(algorithm: Algorithm, epsilon: float, runs: Sequence[tuple[Evaluations, Mapping[str, float]]]) -> Line:
    spent = max(max(each.values()) for _, each in runs)
    if spent > epsilon:
        raise VerificationError("epsilon", f"{spent:.4f} was spent of {epsilon:g}", "Report this.")
    return _line(algorithm.name, epsilon, spent, [evaluations for evaluations, _ in runs])


def pooled(datasets: Sequence[Dataset]) -> Dataset:
    """All training parts as one; nothing held out. The unit is the record."""
    parts = [dataset.training for dataset in datasets]
    labels = np.concatenate([part.labels for part in parts])
    texts = tuple(text for part in parts for text in part.texts)
    first = datasets[0]
    return replace(
        first,
        training=Part(texts, labels, np.arange(len(texts), dtype=np.int64)),
        held_out=replace(first.held_out, texts=(), labels=labels[:0], units=labels[:0]),
        public_size=sum(dataset.public_size for dataset in datasets),
    )


def _line(algorithm: str, epsilon: float | None, spent: float | None, runs: Sequence[Evaluations]) -> Line:
    outcomes = [outcome_of(evaluations) for evaluations in runs]
    accuracies = [outcome.mean_accuracy for outcome in outcomes]
    low, high = auc_interval(runs)
    auc = float(np.mean([outcome.pooled_auc for outcome in outcomes]))
    return Line(algorithm, epsilon, spent, float(np.mean(accuracies)), float(np.std(accuracies)), auc, low, high)


def auc_interval(runs: Sequence[Evaluations]) -> tuple[float, float]:
    """95 % of the AUC (mean over seeds) when held-out records are drawn again, within each hospital and class.

    The percentile bootstrap: what another 254 patients of these hospitals might have given. Training is not repeated.
    """
    bits = np.random.default_rng(0)
    labels = [np.array(each.labels) for each in runs[0].values()]
    scores = [np.array([[row[1] for row in each.probabilities] for each in _across(runs, name)]) for name in runs[0]]
    drawn = []
    for _ in range(RESAMPLES):
        picks = [_again(each, bits) for each in labels]
        truth = np.concatenate([each[pick] for each, pick in zip(labels, picks, strict=True)])
        chosen = np.concatenate([each[:, pick] for each, pick in zip(scores, picks, strict=True)], axis=1)
        drawn.append(np.mean([_auc(truth, row) for row in chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _across(runs: Sequence[Evaluations], hospital: str) -> list[Evaluation]:
    return [evaluations[hospital] for evaluations in runs]


def _again(labels: npt.NDArray[np.int64], bits: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many records of each class as there are, drawn with replacement."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([bits.choice(each, len(each)) for each in classes])


def _auc(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    """The chance that a record of class 1 scores above one of class 0, ties counting half."""
    from scipy.stats import rankdata

    ranks, ones = rankdata(scores), labels == 1
    n1, n0 = int(ones.sum()), int((~ones).sum())
    return float((ranks[ones].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
