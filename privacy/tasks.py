"""What a job trains: the pinned model, the adapter on it, and what its outputs are held against."""

import math
from typing import Annotated, Literal

from pydantic import Field

from privacy.fields import Hex32, Positive, PositiveReal, Range, Strict, Text

MAX_VALUES = 200_000_000


class TensorSpec(Strict):
    """One trained tensor: its name in the PEFT state, its shape, how far one round may move it, its step size."""

    name: Text
    shape: tuple[Positive, ...] = Field(strict=False, min_length=1, max_length=4)
    update_range: Range  # R: each coordinate of a round's update is clipped to [-R, R] before rounding
    learning_rate: PositiveReal

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return math.prod(self.shape)


class ModelPin(Strict):
    """A Hugging Face model: where it is found, and what exactly it must be."""

    source: Text  # a hub id, or the name of a local folder the silo's configuration maps
    revision: str | None
    weights_sha256: Hex32  # of the weights, configuration and tokenizer files (runtime/models.py says how)


class Adapter(Strict):
    """What trains on the frozen base, in the order in which it is flattened."""

    method: Literal["ffa-lora", "lora", "bitfit", "norm", "prompt", "prefix", "head"]
    rank: Annotated[int, Field(ge=0, le=256)]
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    rank_stabilised: bool = False  # LoRA's product is scaled by alpha / sqrt(rank) instead of alpha / rank
    target_modules: tuple[Text, ...] = Field(strict=False)
    virtual_tokens: Annotated[int, Field(ge=0, le=1024)] = 0  # of a prompt or prefix
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(strict=False)
    head: Literal["model", "mean-pooled-normalised", "none"]
    initial_sha256: Hex32  # of the safetensors bytes with the starting values, FFA's fixed A and the normaliser
    tensors: tuple[TensorSpec, ...] = Field(strict=False, min_length=1, max_length=4096)

    @property
    def size(self) -> int:
        """The number of trained values."""
        return sum(tensor.size for tensor in self.tensors)


class ModelTask(Strict):
    """What trains a model, on texts of at most so many tokens."""

    max_tokens: Annotated[int, Field(gt=0, le=8192)]
    model: ModelPin
    adapter: Adapter


class Classification(ModelTask):
    """Sequence classification of one text per record."""

    kind: Literal["sequence-classification"]
    labels: tuple[Text, ...] = Field(strict=False, min_length=2, max_length=1000)


class TokenClassification(ModelTask):
    """A class for each word of a record's text."""

    kind: Literal["token-classification"]
    labels: tuple[Text, ...] = Field(strict=False, min_length=2, max_length=1000)


class LanguageModelling(ModelTask):
    """The next token of a record's response, after its prompt; a record's loss is the mean over its response."""

    kind: Literal["causal-language-modelling"]

    @property
    def labels(self) -> tuple[str, ...]:
        """None: the model's own vocabulary."""
        return ()


TrainedTask = Classification | TokenClassification | LanguageModelling
HEADS: dict[str, tuple[str, ...]] = {
    "sequence-classification": ("model", "mean-pooled-normalised"),
    "token-classification": ("model",),
    "causal-language-modelling": ("none",),
}
"""The heads that a kind of task may have: "none" is the model's own, frozen."""


class Rehearsal(Strict):
    """No data, no model, no budget: every silo sends pseudo-random values, to try the machinery (`bench`)."""

    kind: Literal["rehearsal"]
    values: Annotated[int, Field(gt=0, le=MAX_VALUES)]
    update_range: Range
