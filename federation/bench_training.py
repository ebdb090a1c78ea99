"""`cloister bench training`: what a step of DP-SGD costs beside a plain step of the same adapter.

One core, the demo's model and records: targets and head as in its job file, on the layers named. The plain step is
what anybody would write: forward, mean loss, backward, SGD, in one batch. The three are timed in turn, a step of each
after the other, so that whatever else the machine does hits all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from federation.heart.bench import made_plan
from federation.heart.hospitals import HOSPITALS, job_file, load_hospital, model_folder
from privacy.dp.engine import example_losses, train_round
from privacy.errors import ConfigError
from privacy.plan import JobPlan
from privacy.tasks import Classification
from runtime.config import load_config
from silo_agent.activations import Trainable
from silo_agent.datasets import Dataset
from silo_agent.job_file import JobFile
from silo_agent.models import Tokenizer, build_model
from silo_agent.train import CachedExamples, Training, physical_batch

HOSPITAL, BATCH = "cleveland", 60
LAYERS = (4, 5)


def bench_training(steps: int, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Median seconds of a plain step, of DP-SGD without and with cached activations; and of preparing a job."""
    torch.set_num_threads(1)
    job = load_config(JobFile, job_file(), "", {})
    adapter = job.adapter.model_copy(update={"layers": LAYERS})
    dp = job.dp.model_copy(update={"sampling_rate": 1.0, "expected_batch_size": float(BATCH), "steps_per_round": 1})
    with tempfile.TemporaryDirectory() as scratch:
        whole = load_hospital(HOSPITAL, Path(scratch))
    dataset = _first(whole, BATCH)
    plan, artifact = made_plan(job.model_copy(update={"adapter": adapter, "dp": dp}), HOSPITALS)
    began = time.perf_counter()
    cached = Training(plan, artifact, dataset, model_folder())
    prepared = time.perf_counter() - began
    on_progress(f"prepared in {prepared:.1f} s, the self-test among it")
    rates = {spec.name: spec.learning_rate for spec in plan.tensors}
    plain, without = _trainable(plan, artifact, dataset), _trainable(plan, artifact, dataset)
    runs: dict[str, Callable[[], object]] = {
        "plain": lambda: _plain_step(plain, dataset, rates),
        "dp": lambda: _dp_step(plan, without, dataset),
        "dp_cached": lambda: cached.run_round(cached.vector()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(steps + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if step:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    medians = {f"{name}_step_seconds": statistics.median(found) for name, found in seconds.items()}
    for name, found in medians.items():
        on_progress(f"{name}: {found:.3f}")
    ratios = {f"{name}_over_plain": medians[f"{name}_step_seconds"] / medians["plain_step_seconds"] for name in runs}
    shape = {"records": BATCH, "layers": list(LAYERS), "values": plan.values, "max_tokens": job.task.max_tokens}
    return {**shape, "steps": steps, "prepare_seconds": prepared, **medians, **ratios}


def _first(dataset: Dataset, records: int) -> Dataset:
    """Its first training records, none of them held out."""
    part = dataset.training
    if len(part.texts) < records:
        raise ConfigError(f"dataset {dataset.name!r}", f"has fewer than {records} records", "Choose another.")
    few = replace(part, texts=part.texts[:records], labels=part.labels[:records], units=part.units[:records])
    return replace(dataset, training=few, held_out=replace(few, texts=(), labels=few.labels[:0], units=few.units[:0]),
                   public_size=records)  # fmt: skip


def _trainable(plan: JobPlan, artifact: bytes, dataset: Dataset) -> Trainable:
    """The model with all of its layers, and the records as tokens."""
    if not isinstance(plan.task, Classification):
        raise ConfigError(f"job {plan.name!r}", "trains no model", "Use a job on data.")
    model = build_model(plan.task, model_folder(), artifact)
    tokens = Tokenizer(model_folder(), plan.task.max_tokens, whole=True)(dataset.training.texts)
    return Trainable(model, (tokens,))


def _plain_step(trainable: Trainable, dataset: Dataset, rates: Mapping[str, float]) -> None:
    module, labels = trainable.module, torch.from_numpy(dataset.training.labels)
    module.eval()  # as DP-SGD has it: without dropout
    loss = example_losses(module, trainable.inputs[0], labels).mean()
    trained = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained)
    rate = min(rates.values())
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.sub_(rate * gradient)


def _dp_step(plan: JobPlan, trainable: Trainable, dataset: Dataset) -> None:
    if plan.dp is None:
        raise ConfigError(f"job {plan.name!r}", "has no mechanism", "Use a job on data.")
    labels = torch.from_numpy(dataset.training.labels)
    examples = CachedExamples(trainable.inputs[0], labels, [units[None] for units in dataset.training.units])
    rates = _rates(trainable.module, plan)
    train_round(trainable.module, examples, plan.dp, rates, max_physical_batch=physical_batch(plan.values, 2))


def _rates(module: nn.Module, plan: JobPlan) -> dict[str, float]:
    slowest = min(spec.learning_rate for spec in plan.tensors)
    return {name: slowest for name, parameter in module.named_parameters() if parameter.requires_grad}
