"""From a job file to the plan and the artifact with the job's starting values. Done once, by the coordinator.

Everything here is worked out from public quantities: the job file, the model, the roster. No record, no record count.
"""

import hashlib
import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from peft import PeftModel
from pydantic import ValidationError
from safetensors.numpy import save as save_safetensors
from torch import nn
from transformers import PreTrainedModel

from privacy.accounting import ZERO, noise_event, noise_multiplier_for, rdp_vector, times
from privacy.dp.allowlist import check_allowed
from privacy.errors import ConfigError
from privacy.fields import first_complaint
from privacy.flatten import adapter_digest, flatten
from privacy.mechanism import DpSgd
from privacy.plan import Cohort, Grid, JobPlan, RosterMember
from privacy.tasks import (
    Adapter,
    Classification,
    LanguageModelling,
    ModelPin,
    TensorSpec,
    TokenClassification,
    TrainedTask,
)
from runtime.models import weights_digest
from silo_agent.adapters import PROMPT, adapt, head_modules, trained_heads, trained_parameters
from silo_agent.choices import settle
from silo_agent.job_file import JobFile
from silo_agent.modeling import MeanPooledClassifier
from silo_agent.models import (
    NORMALISER,
    Tokenizer,
    adapter_state,
    load_base,
    require_length,
)
from silo_agent.normaliser import feature_moments

Float32 = npt.NDArray[np.float32]
NOISE_DEVIATIONS = 6.0  # a round's noise leaves +-6 deviations in one coordinate of a billion
RANGE_DIGITS = 3
TASKS: dict[str, Any] = {
    "sequence-classification": Classification,
    "token-classification": TokenClassification,
    "causal-language-modelling": LanguageModelling,
}
PREFIX_DEVIATION = 0.02  # what most models' own weights start with
LEAST_RANGE, LARGEST_RANGE = 1e-30, 1e30  # well within float32's normal numbers


@dataclass(frozen=True)
class Parties:
    """Who takes part: the silos sorted by name, and the aggregator, each with its Ed25519 identity key in hex."""

    silos: tuple[RosterMember, ...]
    aggregator: RosterMember

    @classmethod
    def of(cls, silos: Mapping[str, str], aggregator: tuple[str, str]) -> "Parties":
        """From hex identity keys by silo name, and the aggregator's name and key."""
        members = tuple(RosterMember(name=name, identity_key=key) for name, key in sorted(silos.items()))
        return cls(members, RosterMember(name=aggregator[0], identity_key=aggregator[1]))


def make_plan(
    job: JobFile,
    job_folder: Path,
    model_folder: Path,
    parties: Parties,
    now_utc: datetime,
) -> tuple[JobPlan, bytes]:
    """The plan, and the artifact whose digest it pins: safetensors with LoRA's A, the normaliser, the starting values.

    `job_folder` is where the job file's own paths start, `model_folder` holds the base model. Raises ConfigError
    naming the key of the job file that is wrong.
    """
    state, rates = starting_values(job, job_folder, model_folder)
    artifact = save_safetensors(state)
    values = sum(state[name].size for name in rates)
    chosen = settle(job.wanted, len(parties.silos), values)
    dp = fix_mechanism(job, chosen.minimum - chosen.tolerated_colluders)
    ranges = update_ranges(rates, dp, values, job.grid_bits)
    tensors = tuple(
        TensorSpec(name=name, shape=state[name].shape, update_range=ranges[name], learning_rate=rates[name])
        for name in sorted(rates)
    )
    start = flatten({spec.name: state[spec.name] for spec in tensors}, tensors)
    try:
        plan = JobPlan(
            version="cloister/v1",
            name=job.name,
            federation=job.federation,
            purpose=job.purpose,
            task=_task(job, model_folder, artifact, tensors),
            dp=dp,
            server=job.server.fixed(),
            rounds=job.rounds,
            round_attempts=job.round_attempts or 2 * job.rounds,
            suite=chosen.suite,
            parameters=chosen.parameters,
            open_to=job.open_to,
            grid=Grid(bits=job.grid_bits),
            initial_adapter=adapter_digest(start).hex(),
            cohort=Cohort(
                roster=parties.silos,
                minimum=chosen.minimum,
                tolerated_colluders=chosen.tolerated_colluders,
                minimum_dataset_size=job.cohort.minimum_dataset_size,
            ),
            aggregator=parties.aggregator,
            deadlines=job.deadlines.fixed(),
            created_utc=now_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            nonce=secrets.token_hex(32),
        )
    except ValidationError as error:
        raise ConfigError(f"job {job.name!r}", first_complaint(error), "Correct the job file.") from error
    return plan, artifact


def _task(job: JobFile, model_folder: Path, artifact: bytes, tensors: tuple[TensorSpec, ...]) -> TrainedTask:
    """What is trained, pinned: the base model's weights, and the adapter's starting values. Raises ValidationError."""
    chosen = job.adapter.model_dump(include=set(Adapter.model_fields) - {"initial_sha256", "tensors"}, mode="python")
    task: TrainedTask = TASKS[job.task.kind](
        kind=job.task.kind,
        **({"labels": job.task.labels} if job.task.labels else {}),
        max_tokens=job.task.max_tokens,
        model=ModelPin(
            source=job.model.source, revision=job.model.revision, weights_sha256=weights_digest(model_folder)
        ),
        adapter=Adapter(**chosen, initial_sha256=hashlib.sha256(artifact).hexdigest(), tensors=tensors),
    )
    return task


def fix_mechanism(job: JobFile, honest: int = 1) -> DpSgd:
    """The mechanism, its noise calibrated so that all planned rounds together cost at most the target epsilon (RDP),
    validation figures included.

    Failed rounds that were submitted are charged too: a budget that shall survive them needs room beyond the target.
    Noise that is shared is made up of as many shares as every sum has `honest` members. Raises ConfigError if that is
    not even two.
    """
    chosen = job.dp
    sigma, shares = chosen.noise_multiplier, honest if chosen.noise == "shared" else 1
    if chosen.noise == "shared" and honest < 2:
        why = f"leaves {honest} honest members in the smallest sum, less the colluders: nobody to share noise with"
        raise ConfigError("cohort.minimum", why, "Raise it, or use local noise.")
    metrics = None if job.metrics is None else job.metrics.fixed()
    if sigma is None:
        epsilon, steps, published = cast("float", chosen.epsilon), job.rounds * chosen.steps_per_round, ZERO
        if metrics is not None:
            published = times(rdp_vector(noise_event(metrics.noise_multiplier, shares)), job.rounds)
        sigma = noise_multiplier_for(epsilon, chosen.delta, chosen.sampling_rate, steps, shares, published)
    return DpSgd(
        clip_l2=chosen.clip_l2,
        noise_multiplier=sigma,
        sampling_rate=chosen.sampling_rate,
        steps_per_round=chosen.steps_per_round,
        expected_batch_size=chosen.expected_batch_size,
        unit=chosen.unit,
        delta=chosen.delta,
        proximal=chosen.proximal,
        noise=chosen.noise,
        noise_shares=shares,
        metrics=metrics,
    )


def update_ranges(rates: Mapping[str, float], dp: DpSgd, values: int, bits: int) -> dict[str, float]:
    """R of each tensor, by its learning rate; with shared noise what makes the grid equally fine for all gradients."""
    if dp.noise == "local":
        return {name: update_range(rate, dp) for name, rate in rates.items()}
    reach = dp.shared_grid(values, bits).reach
    return {name: _for_float32(rate, rate * reach) for name, rate in rates.items()}


def update_range(learning_rate: float, dp: DpSgd) -> float:
    """R of a tensor: how far one round may move a coordinate before it is clipped to the grid, from public figures.

    The clipped gradients of an expected batch that all point along one coordinate, plus six deviations of the noise:
    lr * (steps * C + 6 * sqrt(steps) * sigma * C / expected batch size), rounded up to three digits; a proximal term
    only brings a value back. Clipping beyond
    it biases the update and costs no privacy. Raises ConfigError when float32 has no room for it.
    """
    noise = NOISE_DEVIATIONS * math.sqrt(dp.steps_per_round) * dp.noise_multiplier * dp.clip_l2 / dp.expected_batch_size
    reach = _for_float32(learning_rate, learning_rate * (dp.steps_per_round * dp.clip_l2 + noise))
    unit = 10.0 ** (math.floor(math.log10(reach)) - RANGE_DIGITS + 1)
    return min(math.ceil(reach / unit) * unit, LARGEST_RANGE)


def _for_float32(learning_rate: float, reach: float) -> float:
    """How far a round may move a value. Raises ConfigError when float32 has no room for it."""
    if LEAST_RANGE <= reach <= LARGEST_RANGE:
        return reach
    why = f"with a learning rate of {learning_rate:g} a round would move a value by up to {reach:g}"
    raise ConfigError(
        "job file", why, f"Choose learning rate, clip_l2 and noise so that it is {LEAST_RANGE:g} to {LARGEST_RANGE:g}."
    )


def starting_values(job: JobFile, job_folder: Path, model_folder: Path) -> tuple[dict[str, Float32], dict[str, float]]:
    """All that PEFT saves for the job's adapter, at its starting values; and the learning rate of each that trains.

    LoRA's A is uniform on +-1/sqrt(inputs) (Kaiming, as PEFT starts it), B is zero, the head's last layer is zero;
    biases and norm layers start at the base model's values, virtual tokens as `_first_prompt` says. Raises Refused
    where no silo could train it under DP-SGD.
    """
    base = load_base(model_folder, job.task.labels, job.adapter.head, job.task.kind)
    moments = None
    if job.normaliser is not None and isinstance(base, MeanPooledClassifier):
        sentences = job.normaliser.made_up(job_folder)
        moments = feature_moments(base, Tokenizer(model_folder, job.task.max_tokens), sentences)
    if job.adapter.head != "none":
        _start_head_at_zero(base, len(job.task.labels))
    model = adapt(base, job.adapter, job.task.kind)
    check_allowed(model)
    require_length(model, job.task.max_tokens)
    state = adapter_state(model)
    if moments is not None:
        state |= {
            name: moment
            for name in state
            for end, moment in zip(NORMALISER, moments, strict=True)
            if name.endswith(end)
        }
    bits = np.random.default_rng(job.adapter.seed)  # None: seeded by the operating system
    for name in sorted(state):
        if ".lora_A." in name:
            bound = 1 / math.sqrt(state[name].shape[1])
            state[name] = bits.uniform(-bound, bound, state[name].shape).astype(np.float32)
        elif ".lora_B." in name:
            state[name] = np.zeros_like(state[name])
        elif name == PROMPT:
            state[name] = _first_prompt(model, job.adapter.method, state[name].shape, bits)
    heads = trained_heads(model)
    head_rate = cast("float", job.adapter.head_learning_rate)  # each is absent only where nothing of its kind trains
    body_rate = cast("float", job.adapter.body_learning_rate)
    rates = {n: head_rate if n in heads else body_rate for n in trained_parameters(model)}
    return state, rates


def _first_prompt(model: PeftModel, method: str, shape: tuple[int, ...], bits: np.random.Generator) -> Float32:
    """Prompt tuning starts at the embeddings of words drawn from the vocabulary (Lester et al., section 3.2), a prefix
    near zero.
    """
    if method == "prefix":
        return bits.normal(0, PREFIX_DEVIATION, shape).astype(np.float32)
    words = cast("nn.Embedding", model.word_embeddings).weight.detach().numpy()
    return words[bits.integers(0, len(words), shape[0])].astype(np.float32)


def _start_head_at_zero(base: PreTrainedModel, labels: int) -> None:
    """Zero the linear layers of the head that give the logits; what stands before them keeps its values."""
    heads: Iterable[nn.Module] = (base.get_submodule(name) for name in head_modules(base))
    for head in heads:
        for layer in head.modules():
            if isinstance(layer, nn.Linear) and layer.out_features == labels:
                nn.init.zeros_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
