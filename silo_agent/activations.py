"""Run the frozen layers once: their activations are cached and a training step runs only the layers that train.

Works on any transformer whose layers stand in one ModuleList as long as `config.num_hidden_layers`: the layers below
the first trained one are replaced by `Replay`, and the model's own forward does the rest (masks, positions, head), so
that nothing is written twice. What is too large for memory is mapped from a file (activation_store). Other models train
without a cache: slower, and the same.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from silo_agent.activation_store import ITEM_BYTES, ActivationStore
from silo_agent.adapters import HEAD
from silo_agent.hardware import CPU, Hardware
from silo_agent.models import Tokens

RECORD_BATCH = 32
CACHE_LIMIT_BYTES = 2 << 30  # of all parts together, in memory
SMALL_BYTES = 64 << 20  # a part that stays in memory whatever the others take


class Replay(nn.Module):
    """Stands where a frozen layer stood and gives back what that layer gave: `hidden`, set before each forward."""

    hidden: torch.Tensor | None = None

    def __init__(self, layer: nn.Module, *, as_tuple: bool) -> None:
        super().__init__()
        # Models read their layers' plain attributes while they run, for instance which attention mask one takes.
        for name, value in vars(layer).items():
            if isinstance(value, str | int | float) and name != "training":
                setattr(self, name, value)
        self._as_tuple = as_tuple

    def forward(self, *_: object, **__: object) -> torch.Tensor | tuple[torch.Tensor, ...] | None:
        """What the layer returned, whatever it is called with."""
        return (self.hidden,) if self._as_tuple and self.hidden is not None else self.hidden


class Suffix(nn.Module):
    """The trained model from the first trained layer on. Owns the model it is made of, and changes it for good."""

    def __init__(self, model: PeftModel, layers: nn.ModuleList, depth: int, *, as_tuple: bool) -> None:
        super().__init__()
        self.model = model
        self._replays = [Replay(layers[i], as_tuple=as_tuple) for i in range(depth)]
        for i, replay in enumerate(self._replays):
            layers[i] = replay

    def forward(self, hidden: torch.Tensor, **tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, labels] from the cached activations [B, T, H] and the tokens they belong to."""
        for replay in self._replays:
            replay.hidden = hidden
        try:
            return cast("torch.Tensor", self.model(**tokens).logits)
        finally:
            for replay in self._replays:
                replay.hidden = None


@dataclass(frozen=True)
class Trainable:
    """A module that trains, and the inputs of each part, one row per record."""

    module: nn.Module
    inputs: tuple[dict[str, torch.Tensor], ...] = field(repr=False)


def with_cached_activations(
    model: PeftModel,
    parts: tuple[Tokens, ...],
    store: ActivationStore | None = None,
    weights: str = "",
    hardware: Hardware = CPU,
) -> Trainable:
    """Cache every part's activations below the first trained layer: in memory if all of them fit there, else the large
    ones in `store`; no cache if that has no room, or the model's layers do not allow it. `weights`, the base model's
    digest, tells one model's files from another's. `hardware` is where the model is, and how its frozen layers
    multiply: what they give is kept as float32 in the machine's own memory.

    `model` must not be used afterwards but through the result.
    """
    found, width = _frozen_depth(model), _body_setting(model, "hidden_size")
    if found is None:
        return Trainable(model, parts)
    layers, depth = found
    sizes = [part["input_ids"].numel() * width * ITEM_BYTES for part in parts]
    in_memory = sum(sizes) <= CACHE_LIMIT_BYTES
    recorded = []
    for part, size in zip(parts, sizes, strict=True):
        prefix = Prefix(model, layers[depth - 1], part, width, hardware)
        if in_memory or size <= SMALL_BYTES:
            hidden: torch.Tensor | None = torch.empty(prefix.shape)
            prefix.record(cast("torch.Tensor", hidden))
        else:
            key = prefix.key(weights, depth)
            hidden = None if store is None else store.mapped(key, prefix.shape, prefix.record)
        if hidden is None:
            return Trainable(model, parts)
        recorded.append({"hidden": hidden, **part})
    as_tuple = any(Prefix(model, layers[depth - 1], part, width, hardware).returns_tuple() for part in parts)
    return Trainable(Suffix(model, layers, depth, as_tuple=as_tuple), tuple(recorded))


def _frozen_depth(model: PeftModel) -> tuple[nn.ModuleList, int] | None:
    """The stack of layers and how many of the first are frozen; None if there is no such stack or none is frozen."""
    count = _body_setting(model, "num_hidden_layers")
    modules = dict(model.named_modules())
    stacks = [(name, m) for name, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(stacks) != 1:
        return None
    prefix, layers = stacks[0]
    depth = next((i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())), len(layers))
    outside = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and HEAD not in name and not name.startswith(f"{prefix}.")
    ]
    return None if depth == 0 or outside else (layers, depth)


def _body_setting(model: PeftModel, name: str) -> int:
    """A number from the configuration of the pretrained body; 0 if it has none of that name."""
    base = model.get_base_model()
    body = base.get_submodule(base.base_model_prefix) if isinstance(base, PreTrainedModel) else base
    return int(getattr(body.config, name, 0))


class _Reached(Exception):  # noqa: N818 - a way out of the forward pass, not an error
    """The frozen prefix has run; what follows is not needed."""


@dataclass(frozen=True)
class Prefix:
    """The frozen layers up to `last`, and the tokens of one part that they shall be run on."""

    model: PeftModel
    last: nn.Module
    tokens: Tokens = field(repr=False)
    width: int
    hardware: Hardware

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what the last frozen layer gives: rows, tokens, features."""
        rows, length = self.tokens["input_ids"].shape
        return rows, length, self.width

    def key(self, weights: str, depth: int) -> str:
        """A digest of all that the activations hang on."""
        how = f"{weights} {depth} {self.shape} {self.hardware.device.type} {self.hardware.frozen}"
        state = hashlib.sha256(f"cloister/v1/activations {how}".encode())
        for name in sorted(self.tokens):
            state.update(self.tokens[name].numpy().tobytes())
        return state.hexdigest()

    def record(self, into: torch.Tensor) -> None:
        """Run every row, a batch at a time, and put what comes out into the tensor."""
        for start in range(0, len(into), RECORD_BATCH):
            output = self._run(slice(start, start + RECORD_BATCH))
            into[start : start + RECORD_BATCH] = output[0] if isinstance(output, tuple) else output

    def returns_tuple(self) -> bool:
        """Whether the layer gives its hidden state in a tuple."""
        return len(self.tokens["input_ids"]) > 0 and isinstance(self._run(slice(0, 1)), tuple)

    def _precision(self) -> torch.autocast:
        """Matrix products in bfloat16 where the hardware says so; sums, norms and softmax in float32 anywhere."""
        return torch.autocast(self.hardware.device.type, torch.bfloat16, enabled=self.hardware.half)

    def _run(self, rows: slice) -> torch.Tensor | tuple[torch.Tensor, ...]:
        seen: list[torch.Tensor | tuple[torch.Tensor, ...]] = []

        def capture(_: nn.Module, __: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            seen.append(output)
            raise _Reached

        training = self.model.training
        handle = self.last.register_forward_hook(capture)
        self.model.eval()
        try:
            with torch.no_grad(), suppress(_Reached), self._precision():
                self.model(**{name: tensor[rows].to(self.hardware.device) for name, tensor in self.tokens.items()})
        finally:
            handle.remove()
            self.model.train(training)
        return seen[0]
