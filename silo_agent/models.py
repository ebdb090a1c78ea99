"""The model that a job trains: a frozen base from a local folder, its adapter, and the job's pinned starting values.

The names of tensors are PEFT's own (`get_peft_model_state_dict`), in the plan, in the artifact and in the export, so
that what is trained here loads anywhere with `PeftModel.from_pretrained`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from privacy.errors import ConfigError, VerificationError
from privacy.tasks import Adapter, TrainedTask
from silo_agent.adapters import adapt, trained_parameters
from silo_agent.modeling import MeanPooledClassifier

Float32 = npt.NDArray[np.float32]
Tokens = dict[str, torch.Tensor]
POOLED = {"sequence-classification"}  # what can be done with one vector for a text
NORMALISER = ("normaliser.center", "normaliser.deviation")  # endings of its names in PEFT's state dictionary


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what is missing is checked here."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


AUTO: dict[str, Any] = {
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "causal-language-modelling": AutoModelForCausalLM,
}


def load_base(folder: Path, labels: Sequence[str], head: str, task: str = "sequence-classification") -> PreTrainedModel:
    """The frozen base for a kind of task, with a head for `labels` where it has some, float32, from safetensors, never
    running code of the folder.

    Raises ConfigError if the folder holds no such model, or if weights of its body are missing (they would be random,
    and differ between silos).
    """
    options: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "dtype": torch.float32,
    }
    try:
        with _quiet():
            if head == "mean-pooled-normalised":
                return MeanPooledClassifier.from_encoder(str(folder), labels, **options)
            if labels:
                options |= {"id2label": dict(enumerate(labels)), "ignore_mismatched_sizes": True}
            loaded = AUTO[task].from_pretrained(str(folder), output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        why = f"{folder.name} does not load ({type(error).__name__})"
        raise ConfigError("model", why, "The folder needs config.json, model.safetensors and a tokenizer.") from error
    model, report = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    body = f"{model.base_model_prefix}." if head != "none" else ""
    missing = sorted(key for key in report["missing_keys"] if key.startswith(body))
    if missing:
        why = f"{missing[0]} is not in the checkpoint and would be random"
        step = 'Use head = "mean-pooled-normalised".' if task in POOLED else "Choose a model that was saved whole."
        raise ConfigError("model", why, step)
    return model


def adapter_state(model: PeftModel) -> dict[str, Float32]:
    """Everything PEFT would save, trained or fixed: copies, float32."""
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return {name: tensor.detach().cpu().numpy().astype(np.float32) for name, tensor in state.items()}


def trainable_state(model: nn.Module) -> dict[str, Float32]:
    """Copies of what trains, by the names of the plan's manifest."""
    return {name: p.detach().cpu().numpy().copy() for name, p in trained_parameters(model).items()}


def load_state(model: nn.Module, state: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Set trained tensors. Raises VerificationError when names or shapes are not exactly the model's."""
    parameters = trained_parameters(model)
    _require_same({name: tuple(p.shape) for name, p in parameters.items()}, state, "adapter")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(state[name])))


def read_artifact(artifact: bytes, adapter: Adapter) -> dict[str, Float32]:
    """The starting values of a job, fixed and trained. Raises VerificationError on another digest or other content."""
    if hashlib.sha256(artifact).hexdigest() != adapter.initial_sha256:
        raise VerificationError(
            "initial adapter", "its SHA-256 is not the one in the plan", "Fetch it again; do not train on it."
        )
    try:
        state: dict[str, Float32] = load_safetensors(artifact)
    except (SafetensorError, ValueError) as error:
        raise VerificationError("initial adapter", "is not a safetensors file", "Submit the job again.") from error
    for name, tensor in state.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise VerificationError(f"initial adapter {name}", "is not finite float32", "Submit the job again.")
    absent = {spec.name: spec.shape for spec in adapter.tensors if spec.name not in state}
    if absent:
        raise VerificationError("initial adapter", f"lacks {min(absent)}", "Submit the job again.")
    return state


def build_model(task: TrainedTask, folder: Path, artifact: bytes) -> PeftModel:
    """The job's model at its starting values.

    Raises VerificationError if the artifact is not the plan's or its tensors are not exactly what PEFT saves for this
    model, ConfigError if the folder holds another kind of model or one for shorter texts.
    """
    state = read_artifact(artifact, task.adapter)
    model = adapt(load_base(folder, task.labels, task.adapter.head, task.kind), task.adapter, task.kind)
    set_adapter(model, state)
    require_length(model, task.max_tokens)
    manifest = {spec.name: spec.shape for spec in task.adapter.tensors}
    trained = {name: tuple(p.shape) for name, p in trained_parameters(model).items()}
    if manifest != trained:
        wrong = min(set(manifest.items()) ^ set(trained.items()))[0]
        raise VerificationError("plan's tensors", f"{wrong} is not as the model trains it", "Submit the job again.")
    return model


def require_length(model: nn.Module, max_tokens: int) -> None:
    """Raises ConfigError unless the model takes texts of `max_tokens`, which every record is padded to."""
    tokens = torch.ones((1, max_tokens), dtype=torch.int64)
    try:
        with torch.no_grad():
            model(input_ids=tokens, attention_mask=tokens)
    except (IndexError, RuntimeError) as error:
        why = f"takes no text of {max_tokens} tokens ({type(error).__name__})"
        raise ConfigError("model", why, "Set task.max_tokens to at most its number of positions.") from error


def set_adapter(model: PeftModel, state: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Set all that PEFT saves, parameters and buffers. Raises VerificationError unless the names and shapes match."""
    own: dict[str, torch.Tensor] = get_peft_model_state_dict(model) | trained_parameters(model)  # PEFT copies a prompt
    _require_same({name: tuple(tensor.shape) for name, tensor in own.items()}, state, "initial adapter")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(state[name])))


def _require_same(
    expected: Mapping[str, tuple[int, ...]], state: Mapping[str, npt.NDArray[np.float32]], what: str
) -> None:
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != dict(expected):
        wrong = min(set(found.items()) ^ set(expected.items()))[0]
        raise VerificationError(what, f"{wrong} is absent, unknown or of another shape", "Check model and plan.")


class Tokenizer:
    """The model folder's tokenizer, with the plan's limit on tokens.

    `whole`: every text is padded to the limit and not to the longest of its part, so that the shape of what one record
    is computed in (and with it float32's rounding) does not tell of another record's length.
    """

    def __init__(self, folder: Path, max_tokens: int, *, whole: bool = False, words: bool = False) -> None:
        options = {"add_prefix_space": True} if words else {}  # what GPT-2 and RoBERTa need to begin with any word
        try:
            with _quiet():
                self._tokenizer = AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False, **options
                )
        except (OSError, ValueError, KeyError) as error:
            why = f"{folder.name} has no tokenizer that loads ({type(error).__name__})"
            raise ConfigError("model", why, "Add the tokenizer's files.") from error
        self._max_tokens = max_tokens
        self._padding: str = "max_length" if whole else "longest"

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask`, int64 [texts, longest of them or limit], truncated to the plan's limit."""
        batch = self._tokenizer(
            list(texts), padding=self._padding, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def of_words(self, texts: Sequence[Sequence[str]]) -> tuple[Tokens, list[list[int | None]]]:
        """The same of texts that are words already; and for each position the word's number, None for what is none.

        Raises ConfigError if the tokenizer cannot tell.
        """
        try:
            batch = self._tokenizer(
                [list(words) for words in texts],
                is_split_into_words=True,
                padding=self._padding,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            numbers = [batch.word_ids(i) for i in range(len(texts))]
        except (ValueError, AssertionError) as error:
            why = f"its tokenizer cannot tell which word a token is of ({type(error).__name__})"
            raise ConfigError("model", why, "Add the files of its fast tokenizer (tokenizer.json).") from error
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}, numbers

    def of_prompt(self, text: str) -> list[int]:
        """Token ids of what stands before a response, with what the model wants at the beginning of a text."""
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def of_response(self, text: str) -> list[int]:
        """Token ids of a response, and the end of a text where the tokenizer has such a token."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        end = self._tokenizer.eos_token_id
        return ids if end is None else [*ids, end]

    @property
    def padding(self) -> int:
        """The id that pads; masked, so any will do where the tokenizer has none."""
        pad = self._tokenizer.pad_token_id
        return 0 if pad is None else int(pad)
