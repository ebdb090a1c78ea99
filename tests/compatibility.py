"""Which methods train on which models under DP-SGD: the table of docs/reference/compatibility.md, made by trying each.

`python -m tests.compatibility` writes the page: every pair is a small model with random weights that goes through the
allow-list and the engine's preflight, as a silo's would.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import get_peft_model
from torch import nn
from transformers import PreTrainedModel

from privacy.dp.engine import UNLABELLED
from privacy.dp.preflight import preflight
from privacy.errors import ConfigError, Refused
from privacy.mechanism import DpSgd
from silo_agent.adapters import adapt
from silo_agent.job_file import AdapterChoice

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "compatibility.md"
WORDS, TOKENS, CLASSES = 50, 7, 3
SIZES: dict[str, Any] = {"vocab_size": WORDS, "num_labels": CLASSES, "pad_token_id": 0}
BERT_SIZES = SIZES | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MECHANISM = DpSgd(
    clip_l2=0.5, noise_multiplier=1.0, sampling_rate=0.5, steps_per_round=1, expected_batch_size=8.0, unit="record",
    delta=1e-3,
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A family of models: how to make a small one, and what its layers are called."""

    name: str
    make: Callable[..., PreTrainedModel]
    linear: tuple[str, ...]  # LoRA's targets
    biased: tuple[str, ...]  # BitFit's; empty where the family has no biases
    norms: tuple[str, ...]
    embeddings: str


ENDINGS = {
    "sequence-classification": ("ForSequenceClassification",),
    "token-classification": ("ForTokenClassification",),
    "causal-language-modelling": ("LMHeadModel", "ForCausalLM"),
}


def _of(model: str, config: str, **sizes: Any) -> Callable[..., PreTrainedModel]:
    def make(task: str = "sequence-classification") -> PreTrainedModel:
        torch.manual_seed(1)
        classes = (getattr(transformers, f"{model}{ending}", None) for ending in ENDINGS[task])
        found = next((each for each in classes if each is not None), None)
        if found is None:
            raise Refused("model", "the family has no such model", "Choose another.")
        made: PreTrainedModel = found(getattr(transformers, config)(**sizes))
        return made

    return make


BERT_LAYERS = (("query", "value"), ("query", "value", "dense"), ("LayerNorm",), "word_embeddings")
FAMILIES = (
    Family("BERT", _of("Bert", "BertConfig", **BERT_SIZES), *BERT_LAYERS),
    Family("RoBERTa", _of("Roberta", "RobertaConfig", **BERT_SIZES, max_position_embeddings=20), *BERT_LAYERS),
    Family(
        "DistilBERT",
        _of("DistilBert", "DistilBertConfig", **SIZES, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
        ("q_lin", "v_lin"),
        ("q_lin", "v_lin", "out_lin", "lin1", "lin2"),
        ("sa_layer_norm", "output_layer_norm"),
        "word_embeddings",
    ),
    Family(
        "ModernBERT",
        _of(
            "ModernBert",
            "ModernBertConfig",
            **BERT_SIZES,
            cls_token_id=1,
            sep_token_id=2,
            bos_token_id=1,
            eos_token_id=2,
        ),
        ("Wqkv", "Wo"),
        (),
        ("mlp_norm", "final_norm"),
        "tok_embeddings",
    ),
    Family(
        "GPT-2",
        _of(
            "GPT2",
            "GPT2Config",
            **SIZES,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=1,
            eos_token_id=1,
        ),
        ("c_attn",),
        ("c_attn", "c_proj", "c_fc"),
        ("ln_1", "ln_2", "ln_f"),
        "wte",
    ),
    Family(
        "Llama",
        _of("Llama", "LlamaConfig", **BERT_SIZES),
        ("q_proj", "v_proj"),
        (),
        ("input_layernorm", "post_attention_layernorm", "norm"),
        "embed_tokens",
    ),
)


def _choice(method: str, targets: tuple[str, ...], task: str, **more: Any) -> AdapterChoice:
    of_lora = {"rank": 2, "alpha": 4.0} if "lora" in method else {}
    head = {"head": "model", "head_learning_rate": 0.1} if task in LABELLED else {"head": "none"}
    chosen = {"method": method, "target_modules": targets, "body_learning_rate": 0.1} | head | of_lora | more
    return AdapterChoice.model_validate(chosen)


LABELLED = {"sequence-classification", "token-classification"}


def _head_alone(family: Family, task: str) -> nn.Module:
    if task not in LABELLED:
        raise Refused("head", "its output layer is the vocabulary's, and often its embedding", "Train LoRA.")
    return adapt(family.make(task), AdapterChoice(method="head", head="model", head_learning_rate=0.1), task)


def _by(method: str, targets: Callable[[Family], tuple[str, ...]], **more: Any) -> Callable[[Family, str], nn.Module]:
    """One of a job's methods; `targets` names which of a family's layers it goes to."""

    def make(family: Family, task: str) -> nn.Module:
        if method == "bitfit" and not family.biased:
            raise Refused("bitfit", "the family has no biases", "Train LoRA.")
        return adapt(family.make(task), _choice(method, targets(family), task, **more), task)

    return make


def _others(config: str, **options: Any) -> Callable[[Family, str], nn.Module]:
    """One of PEFT's own methods; `targets` names which of a family's layers it goes to."""
    targets = options.pop("targets", None)

    def make(family: Family, task: str) -> nn.Module:
        chosen = options if targets is None else options | {"target_modules": targets(family)}
        try:
            return get_peft_model(family.make(task), getattr(peft, config)(task_type="SEQ_CLS", **chosen))
        except ValueError as error:
            raise Refused(config, f"PEFT itself cannot put it on this family ({error})", "Train LoRA.") from error

    return make


def _linear(family: Family) -> list[str]:
    return list(family.linear)


ALLOWED: dict[str, Callable[[Family, str], nn.Module]] = {
    "`ffa-lora`": _by("ffa-lora", lambda family: family.linear),
    "`lora`": _by("lora", lambda family: family.linear),
    "`lora`, `rank_stabilised`": _by("lora", lambda family: family.linear, rank=4, rank_stabilised=True),
    "`bitfit`": _by("bitfit", lambda family: family.biased),
    "`norm`": _by("norm", lambda family: family.norms),
    "`prompt`": _by("prompt", lambda _: (), virtual_tokens=3),
    "`prefix`": _by("prefix", lambda _: (), virtual_tokens=3),
    "`head`": _head_alone,
}
METHODS = ALLOWED | {
    "DoRA": _others("LoraConfig", r=2, use_dora=True, targets=_linear),
    "LoRA on embeddings": _others("LoraConfig", r=2, targets=lambda family: [family.embeddings]),
    "IA3": _others("IA3Config", feedforward_modules=[], targets=_linear),
    "VeRA": _others("VeraConfig", r=2, targets=lambda family: [family.linear[-1]]),
    "PEFT's prompt tuning": _others("PromptTuningConfig", num_virtual_tokens=3),
    "PEFT's P-tuning": _others("PromptEncoderConfig", num_virtual_tokens=3, encoder_hidden_size=16),
    "the whole model": lambda family, task: family.make(task),
}


def synthetic(task: str, examples: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Made-up records of seven tokens, with a label each, or for each of their later tokens."""
    bits = torch.Generator().manual_seed(3)
    ids = torch.randint(3, WORDS, (examples, TOKENS), generator=bits)
    labels = torch.arange(examples) % CLASSES
    if task != "sequence-classification":
        classes = CLASSES if task == "token-classification" else WORDS
        labels = torch.randint(0, classes, (examples, TOKENS), generator=bits)
        labels[:, :2] = UNLABELLED
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels


def attempt(method: str, family: Family, task: str) -> str | None:
    """None if the preflight passes, else why it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = METHODS[method](family, task)
            preflight(
                model,
                partial(synthetic, task),
                MECHANISM,
                {name: 0.1 for name, p in model.named_parameters() if p.requires_grad},
                state_of=lambda model: {name: p for name, p in model.named_parameters() if p.requires_grad},
                load_state=lambda model, state: model.load_state_dict(state, strict=False),
            )
        except (Refused, ConfigError) as error:
            return re.sub(r" \(\d+ tensors[^)]*\)", "", error.why)
    return None


def page() -> str:
    """The whole page, as it stands in the repository."""
    reasons: dict[str, int] = {}
    writers = [family for family in FAMILIES if family.name in {"GPT-2", "Llama"}]
    lines = [
        *("## Sequence classification, with the model's own head", ""),
        *table("sequence-classification", METHODS, FAMILIES, reasons),
        *("", "## Token classification", ""),
        *table("token-classification", ALLOWED, FAMILIES, reasons),
        *("", "## Causal language modelling", ""),
        *table("causal-language-modelling", ALLOWED, writers, reasons),
    ]
    return HEADING + "\n".join([*lines, "", "## Why not", "", *(f"{n}. {why}" for why, n in reasons.items()), ""])


def table(task: str, methods: Iterable[str], families: Sequence[Family], reasons: dict[str, int]) -> list[str]:
    """One table; new reasons are numbered on."""
    lines = [f"| method | {' | '.join(family.name for family in families)} |", "|---|" + "---|" * len(families)]
    for method in methods:
        cells = []
        for family in families:
            why = attempt(method, family, task)
            cells.append("yes" if why is None else f"no ({reasons.setdefault(why, len(reasons) + 1)})")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


HEADING = """# What trains on what

Made by `python -m tests.compatibility`: each pair is a small model with random weights, of the family's own code in
`transformers`, that goes through the allow-list and the self-test every silo runs before any budget is touched
([DP training](../explanation/dp-training.md)); a test makes the page anew and compares. "yes" says that per-example
gradients are right and clipping bounds them; how well a method learns is another matter. A silo runs the self-test on
the job's real model in any case.

"""

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
