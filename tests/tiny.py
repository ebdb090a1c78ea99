"""Tiny transformers with a tokenizer, made on the spot, and the job, plan and dataset that fit them."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from privacy.plan import JobPlan
from silo_agent.datasets import Dataset, Part
from silo_agent.job_file import JobFile
from silo_agent.planning import Parties, make_plan

WORDS = [
    "[PAD]",
    "[UNK]",
    "red",
    "blue",
    "green",
    "big",
    "small",
    "warm",
    "cold",
    "made",
    "up",
    "record",
    "value",
    "of",
]
WORDS += ["value", "of", *(str(i) for i in range(30))]
SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 40}


def tiny_body(kind: str = "bert") -> PreTrainedModel:
    """A small random encoder of one of three families."""
    torch.manual_seed(3)
    match kind:
        case "bert":
            return BertModel(BertConfig(**SIZES))
        case "roberta":
            return RobertaModel(RobertaConfig(**SIZES, pad_token_id=0))
        case _:
            sizes = {"vocab_size": 64, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
            return DistilBertModel(DistilBertConfig(**sizes, max_position_embeddings=40))


def tiny_folder(folder: Path, kind: str = "bert") -> Path:
    """A model folder as a hospital would have it: config.json, model.safetensors, tokenizer."""
    return _saved(tiny_body(kind), folder)


def tiny_writer(folder: Path, kind: str = "gpt2") -> Path:
    """The same of a small random language model."""
    torch.manual_seed(3)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=64, n_positions=40, n_embd=16, n_layer=3, n_head=2, bos_token_id=2, eos_token_id=2
        )
        return _saved(GPT2LMHeadModel(config), folder)
    return _saved(LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=2, eos_token_id=2)), folder)


def _saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    raw = RawTokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", eos_token="made"
    ).save_pretrained(folder)
    return folder


def tiny_job(**changes: Any) -> JobFile:
    """A job file for the tiny BERT, as the TOML would be read; nested tables are merged over."""
    value: dict[str, Any] = {
        "name": "tiny",
        "federation": "test",
        "purpose": "Tests",
        "rounds": 3,
        "model": {"source": "tiny"},
        "task": {"labels": ["no", "yes"], "max_tokens": 16},
        "adapter": {
            "method": "ffa-lora",
            "rank": 2,
            "alpha": 4.0,
            "target_modules": ["query", "value"],
            "layers": [2],
            "head_learning_rate": 2.0,
            "body_learning_rate": 0.5,
            "seed": 1,
        },
        "normaliser": {
            "template": "{size} {colour} {n}",
            "columns": {
                "size": {"values": ["big", "small"]},
                "colour": {"values": ["red", "blue", "green"]},
                "n": {"low": 0, "high": 20},
            },
            "count": 60,
        },
        "dp": {
            "epsilon": 8.0,
            "delta": 0.01,
            "clip_l2": 1.0,
            "sampling_rate": 0.5,
            "steps_per_round": 2,
            "expected_batch_size": 16.0,
            "unit": "record",
        },
        "cohort": {"minimum": 2, "minimum_dataset_size": 4},
    }
    for key, change in changes.items():
        if change is None:
            value.pop(key)
        else:
            value[key] = value.get(key, {}) | change if isinstance(change, dict) else change
    return JobFile.model_validate(value)


TAGS = {
    "task": {"kind": "token-classification"},
    "adapter": {"head": "model"},
    "normaliser": None,
}
WRITING = {
    "task": {"kind": "causal-language-modelling", "labels": []},
    "adapter": {"head": "none", "head_learning_rate": None, "target_modules": ["c_attn"]},
    "normaliser": None,
}
HEAD_ALONE = {"rank": 0, "alpha": 0.0, "target_modules": [], "layers": [], "body_learning_rate": None, "method": "head"}
_PART = {"rank": 0, "alpha": 0.0, "layers": [1, 2]}
BITFIT = {"method": "bitfit", "target_modules": ["query", "value", "dense"], **_PART}
NORM = {"method": "norm", "target_modules": ["LayerNorm"], **_PART}
_TOKENS = {"rank": 0, "alpha": 0.0, "layers": [], "target_modules": [], "virtual_tokens": 3}
PROMPT, PREFIX = {"method": "prompt", **_TOKENS}, {"method": "prefix", **_TOKENS}
PARTIES = Parties.of({"north": "11" * 32, "south": "22" * 32}, ("aggregator", "33" * 32))


def tiny_plan(job: JobFile, model_folder: Path) -> tuple[JobPlan, bytes]:
    """The plan and artifact of a tiny job for two silos."""
    return make_plan(job, model_folder, model_folder, PARTIES, datetime(2026, 1, 2, tzinfo=UTC))


def tiny_dataset(records: int = 40, patients: int | None = None, public_size: int | None = None) -> Dataset:
    """Two classes that a colour decides; the held-out part is the training part again."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, records)
    texts = tuple(f"{('red', 'blue')[label]} {('big', 'small')[i % 2]} {i % 30}" for i, label in enumerate(labels))
    units = np.arange(records) % patients if patients else np.arange(records)
    part = Part(texts, labels.astype(np.int64), units.astype(np.int64))
    unit = "patient" if patients else "record"
    return Dataset("tiny", "everybody", unit, ("no", "yes"), part, part, public_size or patients or records)


def tiny_tagged(records: int = 40) -> Dataset:
    """A colour is of class yes, any other word of class no; the held-out part is the training part again."""
    part = tiny_dataset(records).training
    tags = tuple(tuple(int(word in {"red", "blue"}) for word in text.split()) for text in part.texts)
    part = replace(part, tags=tags)
    return Dataset("tiny", "everybody", "record", ("no", "yes"), part, part, records, "token-classification")


def tiny_written(records: int = 40) -> Dataset:
    """A colour is answered by its temperature; the held-out part is the training part again."""
    part = tiny_dataset(records).training
    part = replace(part, responses=tuple("warm" if text.startswith("red") else "cold" for text in part.texts))
    return Dataset("tiny", "everybody", "record", (), part, part, records, "causal-language-modelling")
