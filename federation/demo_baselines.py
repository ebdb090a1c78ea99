"""What the demo's figures stand beside: the same model on the same split without privacy, alone, and the majority."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from federation.heart.hospitals import DATASET_FILE, HOSPITALS, model_folder

SEED = 0


@dataclass(frozen=True)
class Baselines:
    """Held-out results by baseline: accuracy per hospital, its mean, and the AUC of all records pooled."""

    majority: dict[str, Any]
    local_only: dict[str, Any]
    without_privacy: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_baselines(prepared: Path, hospitals: Path, note: Callable[[str], None]) -> Baselines:
    """Train them on the hospitals' own files, from the job's own starting values. Takes seconds, in this process."""
    import torch

    from federation.heart.baselines import (
        majority_accuracy,
        train_alone_without_privacy,
        train_together_without_privacy,
    )
    from federation.heart.bench import outcome_of
    from federation.jobs import ARTIFACT_FILE, read_plan
    from runtime.config import load_config
    from silo_agent.dataset_spec import DatasetSpec
    from silo_agent.datasets import load_dataset
    from silo_agent.train import Training, initial_vector

    torch.set_num_threads(1)
    plan, artifact = read_plan(prepared), (prepared / ARTIFACT_FILE).read_bytes()
    specs = {name: hospitals / name / DATASET_FILE for name in HOSPITALS}
    datasets = {name: load_dataset(load_config(DatasetSpec, path, "", {}), path.parent) for name, path in specs.items()}
    majority = majority_accuracy(datasets)
    trainings = {name: Training(plan, artifact, dataset, model_folder()) for name, dataset in datasets.items()}
    start = initial_vector(plan, artifact)
    note("baseline: each hospital alone, without privacy")
    alone = outcome_of(train_alone_without_privacy(plan, trainings, start, SEED))
    note("baseline: the hospitals together, without privacy")
    together = outcome_of(train_together_without_privacy(plan, trainings, start, SEED))
    return Baselines(
        majority={"accuracy": majority, "mean_accuracy": sum(majority.values()) / len(majority), "pooled_auc": None},
        local_only=asdict(alone),
        without_privacy=asdict(together),
    )
