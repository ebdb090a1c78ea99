"""`cloister bench heart`: what the demo's job reaches on the held-out parts, over several seeds, and beside what.

In one process and without sealing; training, rounding to the grid and averaging are the product's own functions. Seeds
decide sampling and noise; the plan (with LoRA's A) is made once per variant from the job file. How the recipe was
chosen, and how far the held-out parts had a say in it, is told in docs/explanation/heart-benchmark.md.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.heart.baselines import majority_accuracy, train_alone_without_privacy, train_together_without_privacy
from federation.heart.hospitals import HOSPITALS, job_file, load_hospital, model_folder
from privacy.accounting import dp_sgd_event, pld_epsilon, rdp_epsilon, rdp_vector
from privacy.dp.randomness import Randomness
from privacy.errors import ConfigError, VerificationError
from privacy.flatten import coordinate_ranges
from privacy.plan import JobPlan
from privacy.quantise import quantise
from privacy.server import first_moments
from runtime.config import load_config
from silo_agent.apply import next_adapter
from silo_agent.datasets import Dataset
from silo_agent.job_file import AdapterChoice, JobFile
from silo_agent.planning import Parties, make_plan
from silo_agent.train import Evaluation, Training, initial_vector

Float32 = npt.NDArray[np.float32]
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Held-out results of one global adapter (or of four local ones)."""

    accuracy: dict[str, float]
    mean_accuracy: float
    pooled_auc: float


def bench_heart(seeds: int, on_progress: OnProgress) -> dict[str, Any]:
    """Mean accuracy of the four hospitals and pooled AUC, per variant and seed, at a verified epsilon.

    Variants: `adapters_and_head`, `head_only` (both DP), `without_privacy`, `local_only` (no DP, alone), `majority`.
    Raises VerificationError if the steps that ran cost more than the job's target.
    """
    with tempfile.TemporaryDirectory() as scratch:
        datasets = {name: load_hospital(name, Path(scratch) / name) for name in HOSPITALS}
    job = load_config(JobFile, job_file(), "", {})
    results: dict[str, Any] = {"seeds": seeds, "majority": majority_accuracy(datasets)}
    for variant, choice in (("adapters_and_head", job.adapter), ("head_only", head_only(job.adapter))):
        on_progress(f"{variant}: running the frozen layers once at each hospital")
        plan, trainings, start = prepare(job.model_copy(update={"adapter": choice}), datasets)
        outcomes = []
        for seed in range(seeds):
            evaluations, epsilon = run_federation(plan, trainings, start, seed)
            outcome = outcome_of(evaluations)
            outcomes.append(outcome)
            _require_within(job, epsilon)
            results[f"{variant}_epsilon"] = epsilon
            on_progress(f"{variant}, seed {seed}: {outcome.mean_accuracy:.3f} / {outcome.pooled_auc:.3f}")
        results[variant] = summary(outcomes)
        if variant == "adapters_and_head":
            results |= _baselines(plan, trainings, start, seeds, on_progress)
    return results


def _require_within(job: JobFile, epsilon: Mapping[str, float]) -> None:
    for name, spent in epsilon.items():
        if job.dp.epsilon is not None and spent > job.dp.epsilon:
            why = f"{name} spent {spent:.4f} where the job allows {job.dp.epsilon:g}"
            raise VerificationError("epsilon", why, "Report this.")


def prepare(job: JobFile, datasets: Mapping[str, Dataset]) -> tuple[JobPlan, dict[str, Training], Float32]:
    """The plan of a job file, each hospital prepared, and the first global adapter."""
    plan, artifact = made_plan(job, datasets)
    trainings = {name: Training(plan, artifact, dataset, model_folder()) for name, dataset in datasets.items()}
    return plan, trainings, initial_vector(plan, artifact)


def made_plan(job: JobFile, silos: Iterable[str]) -> tuple[JobPlan, bytes]:
    """The plan and the artifact of a job file, for silos whose identity keys are made up."""
    keys = {name: (i + 1).to_bytes(32, "big").hex() for i, name in enumerate(sorted(silos))}
    parties = Parties.of(keys, ("aggregator", bytes(32).hex()))
    return make_plan(job, job_file().parent, model_folder(), parties, datetime.now(UTC))


def run_federation(
    plan: JobPlan, trainings: Mapping[str, Training], start: Float32, seed: int
) -> tuple[dict[str, Evaluation], dict[str, float]]:
    """All rounds with DP-SGD at every hospital, updates on the grid, equal weights, the plan's server optimiser.

    Returns each hospital's evaluation, and its epsilon (RDP) of the steps in which noise was added. `seed` makes the
    run repeatable but for the rounding of torch's threaded sums, which is for benchmarks on public data only.
    """
    vector, steps, moments = start, dict.fromkeys(trainings, 0), first_moments(plan.server, plan.values)
    ranges = coordinate_ranges(plan.tensors)
    for round_number in range(plan.rounds):
        total = np.zeros(plan.values, np.uint32)
        for i, (name, training) in enumerate(trainings.items()):
            bits = Randomness.deterministic_for_tests((seed * 1000 + round_number) * 100 + i)
            trained = training.run_round(vector, randomness=bits)
            steps[name] += trained.executed.noise_additions
            total += quantise(trained.update, ranges, plan.grid.bits)
        vector, _ = next_adapter(plan, vector, moments, [total], len(trainings))
    evaluations = {name: training.evaluate(vector) for name, training in trainings.items()}
    return evaluations, {name: verified_epsilon(plan, ran) for name, ran in steps.items()}


def verified_epsilon(plan: JobPlan, steps: int) -> float:
    """The enforced (RDP) epsilon of `steps` noisy steps. Raises VerificationError if PLD contradicts it."""
    if plan.dp is None:
        raise ConfigError(f"job {plan.name!r}", "trains no model", "Use a job on data.")
    event = dp_sgd_event(plan.dp, steps)
    epsilon, tighter = rdp_epsilon(rdp_vector(event), plan.dp.delta), pld_epsilon(event, plan.dp.delta)
    if tighter is not None and tighter > epsilon:
        raise VerificationError("epsilon", f"PLD says {tighter:.3f}, RDP {epsilon:.3f}", "Report this.")
    return epsilon


def outcome_of(evaluations: Mapping[str, Evaluation]) -> Outcome:
    """Accuracy per hospital and its unweighted mean; AUC of the probabilities of all held-out records together."""
    from sklearn.metrics import roc_auc_score

    accuracy = {name: evaluation.accuracy for name, evaluation in evaluations.items()}
    labels = [label for evaluation in evaluations.values() for label in evaluation.labels]
    scores = [row[1] for evaluation in evaluations.values() for row in evaluation.probabilities]
    return Outcome(accuracy, float(np.mean(list(accuracy.values()))), float(roc_auc_score(labels, scores)))


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and every seed's outcome."""
    accuracies, aucs = [o.mean_accuracy for o in outcomes], [o.pooled_auc for o in outcomes]
    return {
        "mean_accuracy": float(np.mean(accuracies)),
        "mean_accuracy_deviation": float(np.std(accuracies)),
        "pooled_auc": float(np.mean(aucs)),
        "pooled_auc_deviation": float(np.std(aucs)),
        "by_seed": [asdict(outcome) for outcome in outcomes],
    }


def _baselines(
    plan: JobPlan, trainings: Mapping[str, Training], start: Float32, seeds: int, on_progress: OnProgress
) -> dict[str, Any]:
    together, alone = [], []
    for seed in range(seeds):
        together.append(outcome_of(train_together_without_privacy(plan, trainings, start, seed)))
        alone.append(outcome_of(train_alone_without_privacy(plan, trainings, start, seed)))
        on_progress(
            f"without privacy, seed {seed}: together {together[-1].mean_accuracy:.3f} / {together[-1].pooled_auc:.3f},"
            f" alone {alone[-1].mean_accuracy:.3f} / {alone[-1].pooled_auc:.3f}"
        )
    return {"without_privacy": summary(together), "local_only": summary(alone)}


def head_only(adapter: AdapterChoice) -> AdapterChoice:
    """The same without LoRA."""
    return AdapterChoice(method="head", head=adapter.head, head_learning_rate=adapter.head_learning_rate)
