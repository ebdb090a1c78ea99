"""The model card of a job: purpose, data, epsilon per silo and unit, suite and digests, as signed and recorded.

Equal facts have equal bytes: a bundle holds the card, and its verifier writes it again from the rest of the bundle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.job_budget import job_epsilon
from privacy.mechanism import DpSgd
from privacy.plan import JobPlan
from privacy.tasks import TrainedTask

PIPELINES = {
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "causal-language-modelling": "text-generation",
}
ANSWERS = {
    "sequence-classification": "labelled with the classes above",
    "token-classification": "each word labelled with one of the classes above",
    "causal-language-modelling": "each a prompt and the response it was to give",
}
AUTO = {  # the classes of transformers that load the base model
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-language-modelling": "AutoModelForCausalLM",
}


@dataclass(frozen=True)
class Spent:
    """What one silo's ledger charged for this job, failed rounds included: the enforced figure (RDP) at delta."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Facts:
    """What the card says beyond the plan: how far the job went, who is in it, and what each known silo was charged."""

    rounds_published: int
    rounds_in: Mapping[str, int]  # by silo: in how many of the published sums it is
    charged: Mapping[str, Spent]  # by silo; a silo that is not named has not told
    ledger_checkpoint: str | None = None  # the exporter's last signed checkpoint, as its C2SP origin, size and root


def model_card(plan: JobPlan, task: TrainedTask, adapter_sha256: str, facts: Facts) -> str:
    """The card of the global adapter with this digest, with the front matter that the Hugging Face hub reads."""
    silos = sorted(facts.rounds_in)
    lines = [
        "---",
        f"base_model: {task.model.source}",
        "library_name: peft",
        f"pipeline_tag: {PIPELINES[task.kind]}",
        "tags: [cloister, federated, differential-privacy]",
        "---",
        "",
        f"# {plan.name}",
        "",
        f"{plan.purpose}. Fine-tuned by {len(silos)} institutions ({', '.join(silos)}) in",
        f"{facts.rounds_published} of {plan.rounds} planned rounds with Cloister; records and plaintext updates did",
        "not leave their institution.",
        "",
        "## Use",
        "",
        "```python",
        *_usage(task),
        "```",
        "",
        f"`{task.model.source}` is the federation's name for the base model: give its folder or hub id.",
        *(
            ["Classes: " + ", ".join(f"{i} = {name}" for i, name in enumerate(task.labels)) + "."]
            if task.labels
            else []
        ),
        "",
        *_data_and_privacy(plan, task, facts),
        "## Provenance",
        "",
        "| what | value |",
        "|---|---|",
        *_provenance(plan, task, adapter_sha256, facts),
    ]
    return "\n".join([*lines, ""])


def _data_and_privacy(plan: JobPlan, task: TrainedTask, facts: Facts) -> list[str]:
    """The two sections a job on data has."""
    dp, least = plan.dp, plan.cohort.minimum_dataset_size
    if dp is None:
        return []
    lines = [
        "## Data",
        "",
        f"Each institution trained on {dp.unit}s of its own, by its own statement at least {least}, as texts of at",
        f"most {task.max_tokens} tokens, {ANSWERS[task.kind]}.",
        "",
        "## Privacy",
        "",
        f"DP-SGD at every institution, one {dp.unit} added or removed: clip {dp.clip_l2:g}, noise multiplier"
        f" {dp.noise_multiplier:g},",
        f"sampling rate {dp.sampling_rate:g}, {dp.steps_per_round} steps a round. Epsilon, by RDP, is that of the sums",
        "which this adapter is made of. A ledger may have charged more, for rounds that failed after the institution",
        "had trained.",
        "",
        *_beside_steps(dp),
        f"| institution | unit | rounds | epsilon at delta {dp.delta:g} | charged in its ledger |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in sorted(facts.rounds_in.items()):
        charged = facts.charged.get(name)
        ledger = f"{charged.epsilon:.4f} at {charged.delta:g}" if charged else "not told to the exporter"
        lines.append(f"| {name} | {dp.unit} | {rounds} | {job_epsilon(plan, dp.delta, rounds):.4f} | {ledger} |")
    return [*lines, ""]


def _beside_steps(dp: DpSgd) -> list[str]:
    """What epsilon rests on or covers beside an institution's own noised steps."""
    lines = []
    if dp.noise == "shared":
        lines += [
            f"The noise of a sum was made up by its members together: epsilon holds while {dp.noise_shares} of them",
            "added their share honestly.",
            "",
        ]
    if dp.metrics is not None:
        lines += [
            "Every round also published accuracy and loss on all held-out parts together, with noise multiplier"
            f" {dp.metrics.noise_multiplier:g};",
            "epsilon counts that.",
            "",
        ]
    return lines


def _usage(task: TrainedTask) -> list[str]:
    """Four lines that load the adapter on its base."""
    labels = json.dumps(list(task.labels))
    if task.adapter.head == "mean-pooled-normalised":
        return [
            "from peft import PeftModel",
            "from silo_agent.modeling import MeanPooledClassifier",
            f"base = MeanPooledClassifier.from_encoder({json.dumps(task.model.source)}, labels={labels})",
            'model = PeftModel.from_pretrained(base, "this-folder")',
        ]
    source = json.dumps(task.model.source)
    classes = f", num_labels={len(task.labels)}" if task.labels else ""
    return [
        "from peft import PeftModel",
        f"from transformers import {AUTO[task.kind]}",
        f"base = {AUTO[task.kind]}.from_pretrained({source}{classes})",
        'model = PeftModel.from_pretrained(base, "this-folder")',
    ]


def _provenance(plan: JobPlan, task: TrainedTask, adapter_sha256: str, facts: Facts) -> list[str]:
    rows = {
        "federation": plan.federation,
        "suite": plan.suite.value,
        "base model": f"{task.model.source}, revision {task.model.revision or 'by digest'}",
        "base model, SHA-256": task.model.weights_sha256,
        "method": f"{_method(task)}, {plan.values} trained values",
        "server optimiser": f"{plan.server.kind}, learning rate {plan.server.learning_rate:g}",
        "plan, SHA-256": plan.digest().hex(),
        "starting values, SHA-256": task.adapter.initial_sha256,
        "global adapter, SHA-256": adapter_sha256,
        "ledger checkpoint": facts.ledger_checkpoint or "none",
        "created": plan.created_utc,
    }
    return [f"| {what} | {value} |" for what, value in rows.items()]


def _method(task: TrainedTask) -> str:
    adapter = task.adapter
    if adapter.method in {"head", "bitfit", "norm"}:
        return adapter.method
    if adapter.virtual_tokens:
        return f"{adapter.method}, {adapter.virtual_tokens} virtual tokens"
    scale = "sqrt(rank)" if adapter.rank_stabilised else "rank"
    return f"{adapter.method}, rank {adapter.rank}, scaled by {adapter.alpha:g} / {scale}"
