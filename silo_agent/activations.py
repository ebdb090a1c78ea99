"""Run the frozen layers once: their activations are cached and a training step runs only the layers that train.

Works on any transformer whose layers stand in one ModuleList as long as `config.num_hidden_layers`: the layers below
the first trained one are replaced by `Replay`, and the model's own forward does the rest (masks, positions, head), so
that nothing is written twice. Other models train without a cache: slower, and the same.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from silo_agent.adapters import HEAD
from silo_agent.models import Tokens

RECORD_BATCH = 32
CACHE_LIMIT_BYTES = 2 << 30


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


def with_cached_activations(model: PeftModel, parts: tuple[Tokens, ...]) -> Trainable:
    """Cache every part's activations below the first trained layer, if the model allows it and they fit.

    `model` must not be used afterwards but through the result.
    """
    found = _frozen_depth(model)
    size = sum(part["input_ids"].numel() for part in parts) * _body_setting(model, "hidden_size") * 4
    if found is None or size > CACHE_LIMIT_BYTES:
        return Trainable(model, parts)
    layers, depth = found
    recorded = [_record(model, layers[depth - 1], part) for part in parts]
    as_tuple = any(was_tuple for _, was_tuple in recorded)
    suffix = Suffix(model, layers, depth, as_tuple=as_tuple)
    return Trainable(
        suffix, tuple({"hidden": hidden, **part} for (hidden, _), part in zip(recorded, parts, strict=True))
    )


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


def _record(model: PeftModel, last_frozen: nn.Module, tokens: Tokens) -> tuple[torch.Tensor, bool]:
    """The output of the last frozen layer for all rows [N, T, H], and whether the layer returns a tuple."""
    seen: list[torch.Tensor | tuple[torch.Tensor, ...]] = []

    def capture(_: nn.Module, __: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        seen.append(output)
        raise _Reached

    training = model.training
    handle = last_frozen.register_forward_hook(capture)
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(tokens["input_ids"]), RECORD_BATCH):
                try:
                    model(**{name: tensor[start : start + RECORD_BATCH] for name, tensor in tokens.items()})
                except _Reached:
                    continue
    finally:
        handle.remove()
        model.train(training)
    outputs = [output[0] if isinstance(output, tuple) else output for output in seen]
    if not outputs:
        return torch.zeros(0), False
    return torch.cat(outputs), isinstance(seen[0], tuple)
