"""One silo's training: prepare once per job, run a round of DP-SGD, evaluate at home.

Round protocol: between step 0 (the budget is reserved) and step 1 (submit). What leaves is the update alone, and that
only sealed; losses, counts and the evaluation stay in the silo's own folder.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from privacy.dp.engine import UNLABELLED, Clipping, Executed, losses_of, train_round
from privacy.dp.preflight import PreflightReport, preflight
from privacy.dp.randomness import Randomness
from privacy.dp.sampler import Indices, OneRecordPerUnit
from privacy.dp.shared import sum_round
from privacy.dp.validation import covered_sums, held_out_sums
from privacy.errors import ConfigError
from privacy.flatten import flatten, unflatten
from privacy.mechanism import DpSgd
from privacy.metrics import COORDINATES
from privacy.plan import JobPlan
from privacy.tasks import Classification, LanguageModelling, ModelTask, TokenClassification, TrainedTask
from runtime.models import check_weights
from silo_agent.activation_store import ActivationStore
from silo_agent.activations import with_cached_activations
from silo_agent.adapters import trained_parameters
from silo_agent.datasets import Dataset, Part, require_fit
from silo_agent.encoding import Encoder, made_up
from silo_agent.hardware import CPU, Hardware
from silo_agent.models import build_model, load_state, read_artifact, trainable_state
from silo_agent.source import Update

Float32 = npt.NDArray[np.float32]
Inputs = dict[str, torch.Tensor]
OnStep = Callable[[int, int], None]
PHYSICAL_BATCH = 64
CLIPPING: Clipping = "hooks"  # a record can be made so that `ghost` reads its norm as zero and does not clip it
BATCH_LIMIT_BYTES = 512 << 20  # what the single examples' gradients and logits of one physical batch may take
LOGIT_BYTES = 16  # float32, their copy for the loss, its softmax, and their gradient


@dataclass(frozen=True)
class Trained:
    """A round's update, in the plan's flattening order, noised and not yet sealed; and what ran.

    It is new - global in units of the adapter; with shared noise it is on the grid already.
    """

    update: Update = field(repr=False)
    executed: Executed


@dataclass(frozen=True)
class Evaluation:
    """The held-out part under one global adapter: for the silo's own folder only, not even noised."""

    accuracy: float  # of texts; of words or tokens the mean over records
    loss: float
    labels: tuple[int, ...] = field(default=(), repr=False)  # of texts: index into the plan's labels
    probabilities: tuple[tuple[float, ...], ...] = field(default=(), repr=False)  # per record, one per label

    def write(self, path: Path) -> None:
        """Write as JSON, readable by this user only, whole or not at all."""
        value = {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "labels": self.labels,
            "probabilities": self.probabilities,
        }
        draft = path.with_name(f".{path.name}.draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            json.dump(value, stream)
        draft.replace(path)


class CachedExamples:
    """Records as the engine wants them, from tensors with one row per record; a unit is a record or a patient."""

    def __init__(
        self,
        inputs: Inputs,
        labels: torch.Tensor,
        records_of_unit: list[npt.NDArray[np.int64]],
        device: torch.device = CPU.device,
    ) -> None:
        self._inputs = inputs
        self._labels = labels
        self._device = device
        self._pick = OneRecordPerUnit(records_of_unit)

    @property
    def units(self) -> int:
        """How many units of privacy there are: local knowledge."""
        return self._pick.units

    def batch(self, units: Indices) -> tuple[Inputs, torch.Tensor]:
        """One record of each unit, on the device: model inputs [B, ...] and labels [B, ...]."""
        records = torch.from_numpy(self._pick.pick(units))
        inputs = {name: tensor[records].to(self._device) for name, tensor in self._inputs.items()}
        return inputs, self._labels[records].to(self._device)


@dataclass(frozen=True)
class HeldOut:
    """A part that is never trained on, encoded: a row per record, and which unit it belongs to."""

    inputs: Inputs = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    units: npt.NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Scores:
    """Of each record: its loss, how much of it is right, in [0, 1], and for texts the probability of each class."""

    losses: npt.NDArray[np.float64] = field(repr=False)
    correct: npt.NDArray[np.float64] = field(repr=False)
    probabilities: npt.NDArray[np.float32] | None = field(repr=False)


def correct_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How much of each record is right, [batch]: of texts 0 or 1, else the share of its labelled positions."""
    if labels.dim() == 1:
        return (logits.argmax(dim=1) == labels).float()
    own, counted = logits[:, logits.shape[1] - labels.shape[1] :].argmax(dim=2), labels != UNLABELLED
    return ((own == labels) & counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


class Training:
    """A job prepared at one silo: dataset and model checked, frozen layers run once, the engine's preflight passed in
    this process. There is none without, also after a restart. Rounds may be run in any number.

    Raises Refused when the dataset's unit or public size is not the plan's, or the model fails the preflight;
    ConfigError on classes or a model folder that do not fit, VerificationError when the model's weights or the artifact
    are not the plan's. No budget is touched.

    `module`, `examples` and `learning_rates` are what the engine trains; experiments without privacy use them directly.
    `self_test` is the preflight's report. `store` is where activations go that are too large for memory; they and the
    records stay in the machine's memory, and only batches go to `hardware.device`.
    """

    def __init__(
        self,
        plan: JobPlan,
        artifact: bytes,
        dataset: Dataset,
        model_folder: Path,
        store: ActivationStore | None = None,
        hardware: Hardware = CPU,
    ) -> None:
        self._task, self._dp = _trained(plan)
        require_fit(dataset, plan)
        check_weights(model_folder, self._task.model.weights_sha256)
        self._specs = plan.tensors
        self._artifact = artifact
        model = build_model(self._task, model_folder, artifact)
        model.to(hardware.device)
        self._device = hardware.device
        encode = Encoder(self._task, model_folder)
        parts = [encode(dataset.training, dataset.classes), encode(made_up(self._task), self._task.labels)]
        if dataset.held_out.texts:
            parts.append(encode(dataset.held_out, dataset.classes))
        tokens, (labels, synthetic_labels, *held_out_labels) = zip(*parts, strict=True)
        trainable = with_cached_activations(model, tokens, store, self._task.model.weights_sha256, hardware)
        self._model, self.module = model, trainable.module
        self._inputs, synthetic, *held_out = trainable.inputs
        self._synthetic = (synthetic, synthetic_labels)
        self._held_out = HeldOut(held_out[0], held_out_labels[0], dataset.held_out.units) if held_out else None
        self._bits = plan.grid.bits
        self._physical_batch = physical_batch(plan.values, logits_of_one(self._task, model))
        self.examples = CachedExamples(self._inputs, labels, _units(dataset.training), self._device)
        names = {id(p): name for name, p in trained_parameters(model).items()}
        rates = {spec.name: spec.learning_rate for spec in self._specs}
        self.learning_rates = {n: rates[names[id(p)]] for n, p in self.module.named_parameters() if p.requires_grad}
        self._grid = plan.shared_grid if self._dp.noise == "shared" else None
        self._order = _plan_order(self.module, names, [spec.name for spec in self._specs])
        self.self_test = self._preflight()

    def run_round(
        self, global_vector: Float32, on_step: OnStep | None = None, randomness: Randomness | None = None
    ) -> Trained:
        """Train from the global adapter for the plan's steps. The budget must have been reserved, durably, before.

        `on_step(done, planned)` follows the progress; `randomness` is for tests. Raises what `train_round` raises.
        """
        self.load(global_vector)
        validation = self._validation_sums(randomness)
        if self._grid is not None:
            noised, executed = sum_round(
                self.module,
                self.examples,
                self._dp,
                self.learning_rates,
                self._grid,
                randomness=randomness,
                max_physical_batch=self._physical_batch,
                on_step=on_step,
            )
            return Trained(np.concatenate([noised[self._order], validation]), executed)
        executed = train_round(
            self.module,
            self.examples,
            self._dp,
            self.learning_rates,
            randomness=randomness,
            max_physical_batch=self._physical_batch,
            on_step=on_step,
            clipping=CLIPPING,
        )
        return Trained(np.concatenate([self.vector() - global_vector, validation]), executed)

    def evaluate(self, global_vector: Float32) -> Evaluation:
        """Accuracy and loss on the held-out part. Raises ConfigError when the dataset holds nothing out."""
        if self._held_out is None:
            raise ConfigError("evaluation", "the dataset holds nothing out", "Set held_out in the dataset's file.")
        self.load(global_vector)
        scores = self._scores(self._held_out)
        accuracy, loss = float(scores.correct.mean()), float(scores.losses.mean())
        if scores.probabilities is None:
            return Evaluation(accuracy, loss)
        labels = tuple(self._held_out.labels.tolist())
        return Evaluation(accuracy, loss, labels, tuple(tuple(row) for row in scores.probabilities.tolist()))

    def _scores(self, part: "HeldOut") -> "Scores":
        """Of the model as it is."""
        self.module.eval()
        losses, correct, probabilities = [], [], []
        with torch.no_grad():
            for start in range(0, len(part.labels), self._physical_batch):
                rows = slice(start, start + self._physical_batch)
                output = self.module(**{name: tensor[rows].to(self._device) for name, tensor in part.inputs.items()})
                logits, labels = getattr(output, "logits", output).float().cpu(), part.labels[rows]
                losses.append(losses_of(logits, labels))
                correct.append(correct_of(logits, labels))
                if labels.dim() == 1:
                    probabilities.append(logits.softmax(dim=1))
        return Scores(
            torch.cat(losses).double().numpy(),
            torch.cat(correct).double().numpy(),
            torch.cat(probabilities).numpy() if probabilities else None,
        )

    def _validation_sums(self, randomness: Randomness | None) -> Update:
        """What the plan publishes of the held-out part under the model as it is, noised; empty if it publishes nothing.

        A silo that holds nothing out sends noise alone.
        """
        if self._dp.metrics is None:
            return np.zeros(0, np.float32) if self._grid is None else np.zeros(0, np.uint16)
        sums = np.zeros(COORDINATES)
        if self._held_out is not None:
            scores = self._scores(self._held_out)
            sums = held_out_sums(scores.losses, scores.correct, self._held_out.units, self._dp.metrics)
        return covered_sums(sums, self._dp, self._bits, randomness)

    def _preflight(self) -> PreflightReport:
        """The engine's self-test on made-up sentences. Raises Refused when the model may not train; spends nothing."""
        inputs, labels = self._synthetic

        def synthetic(n: int) -> tuple[Inputs, torch.Tensor]:
            return {name: tensor[:n].to(self._device) for name, tensor in inputs.items()}, labels[:n].to(self._device)

        return preflight(
            self.module,
            synthetic,
            self._dp,
            self.learning_rates,
            state_of=lambda _: {n: torch.from_numpy(t) for n, t in trainable_state(self._model).items()},
            load_state=lambda _, state: load_state(self._model, {n: t.numpy() for n, t in state.items()}),
            clipping=CLIPPING,
            grid=self._grid,
        )

    def vector(self) -> Float32:
        """What the model holds now, flattened. Raises ConfigError when training diverged."""
        return flatten(trainable_state(self._model), self._specs)

    def load(self, global_vector: Float32) -> None:
        """Set the model to a global adapter."""
        load_state(self._model, unflatten(global_vector, self._specs))


def run_round(
    plan: JobPlan,
    artifact: bytes,
    global_vector: Float32,
    dataset: Dataset,
    model_folder: Path,
    on_step: OnStep | None = None,
) -> Trained:
    """Prepare and run one round. Who runs several keeps a `Training`: preparing costs most."""
    return Training(plan, artifact, dataset, model_folder).run_round(global_vector, on_step)


def initial_vector(plan: JobPlan, artifact: bytes) -> Float32:
    """The global adapter before the first round, from the job's artifact. Raises VerificationError if it is another."""
    task, _ = _trained(plan)
    state = read_artifact(artifact, task.adapter)
    return flatten({spec.name: state[spec.name] for spec in plan.tensors}, plan.tensors)


def _trained(plan: JobPlan) -> tuple[TrainedTask, DpSgd]:
    if not isinstance(plan.task, ModelTask) or plan.dp is None:
        raise ConfigError(f"job {plan.name!r}", "trains no model", "A rehearsal has nothing to train.")
    return plan.task, plan.dp


def _plan_order(module: nn.Module, names: Mapping[int, str], plan: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where each value of the plan's vector stands in the engine's: that takes the parameters in the model's order."""
    places, start = {}, 0
    for parameter in module.parameters():
        if parameter.requires_grad:
            places[names[id(parameter)]] = np.arange(start, start + parameter.numel())
            start += parameter.numel()
    return np.concatenate([places[name] for name in plan])


def physical_batch(values: int, logits: int) -> int:
    """How many examples are clipped at once, so that their gradients (float32) and logits stay within the limit; one at
    least. `values` is what trains, `logits` what the model gives for one example.

    Hangs on plan and model alone and changes nothing but memory and rounding.
    """
    return max(1, min(PHYSICAL_BATCH, BATCH_LIMIT_BYTES // (4 * values + LOGIT_BYTES * logits)))


def logits_of_one(task: TrainedTask, model: PeftModel) -> int:
    """How many numbers the model gives for one example: a language model its whole vocabulary at each position."""
    match task:
        case Classification(labels=labels):
            return len(labels)
        case TokenClassification(labels=labels):
            return task.max_tokens * len(labels)
        case LanguageModelling():
            vocabulary = cast("PreTrainedModel", model.get_base_model()).get_output_embeddings()  # type: ignore[no-untyped-call]
            return task.max_tokens * len(cast("torch.Tensor", vocabulary.weight))


def _units(part: Part) -> list[npt.NDArray[np.int64]]:
    """The records of each unit of privacy: that of the dataset is the plan's, `require_fit` has seen to it."""
    order = np.argsort(part.units, kind="stable")
    return np.split(order, np.cumsum(np.bincount(part.units))[:-1])
