"""The audit's subjects: the engine as it is shipped, and with each bug that breaks privacy without a word."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

from federation.audit.game import Game
from privacy.dp import engine
from privacy.dp.noise import GaussianNoise


@dataclass(frozen=True)
class Subject:
    """One line of the audit. `change` plants the bug into the game, `bug` into the engine while it runs. What is sound
    (not `planted`) may be another mechanism, with a claim of its own.
    """

    name: str
    means: str
    planted: bool = True
    change: Callable[[Game], Game] = lambda game: game
    bug: Callable[[], AbstractContextManager[object]] | None = None


def _noise(add: Callable[[Any, torch.Tensor, float], None]) -> Callable[[], AbstractContextManager[object]]:
    """A bug in what is added; it counts as the honest one does, so that the engine's own count is satisfied."""

    def planted(self: GaussianNoise, tensor: torch.Tensor, std: float) -> None:
        add(self._bits, tensor, std)
        self._additions += 1

    return lambda: patch.object(GaussianNoise, "add_", planted)


def _normal(bits: Any, tensor: torch.Tensor, std: float) -> None:  # noqa: ANN401 - numpy's Generator
    tensor.add_(torch.from_numpy(std * bits.standard_normal(tuple(tensor.shape))))


def _averaged(bits: Any, tensor: torch.Tensor, std: float) -> None:  # noqa: ANN401
    _normal(bits, tensor, std / 4)


def _unless_empty(bits: Any, tensor: torch.Tensor, std: float) -> None:  # noqa: ANN401
    if tensor.any():
        _normal(bits, tensor, std)


def _without_clipping() -> AbstractContextManager[object]:
    honest = engine.ClippedGradients.sum

    def lax(self: engine.ClippedGradients, inputs: Any, labels: torch.Tensor, _: float) -> Any:  # noqa: ANN401
        return honest(self, inputs, labels, 1e9)

    return patch.object(engine.ClippedGradients, "sum", lax)


def _mechanism(**changes: float) -> Callable[[Game], Game]:
    return lambda game: replace(game, mechanism=game.mechanism.model_copy(update=changes))


def _nobody_else(game: Game) -> Game:
    return replace(game, known=game.known[:0], labels=game.labels[:0])


def _epochs(game: Game) -> Game:
    dp = game.mechanism
    return _mechanism(steps_per_round=round(dp.steps_per_round / dp.sampling_rate))(game)


def _centred(game: Game) -> Game:
    """On records of one class: what the canary adds to each of them then points one way."""
    return replace(game, centred=True, labels=torch.zeros_like(game.labels))


SUBJECTS = (
    Subject("as shipped", "the engine as it is", planted=False),
    Subject("as shipped, nobody else", "the canary is the only record", planted=False, change=_nobody_else),
    Subject(
        "as shipped, no sampling",
        "every record in every step, sigma 5",
        planted=False,
        change=_mechanism(sampling_rate=1.0, noise_multiplier=5.0),
    ),
    Subject("no noise", "DP off, clipping on", bug=_noise(lambda *_: None)),
    Subject(
        "a quarter of the noise", "averaged over four micro-batches", bug=_noise(lambda b, t, s: _normal(b, t, s / 4))
    ),
    Subject("a known seed", "set_seed(42) everywhere", change=lambda game: replace(game, noise_is_known=True)),
    Subject("no clipping", "noise for C, gradients as they are", bug=_without_clipping),
    Subject(
        "empty samples skipped",
        "a step that draws nobody adds no noise",
        change=_nobody_else,
        bug=_noise(_unless_empty),
    ),
    Subject("epochs for steps", "1 / q steps for each", change=_epochs),
    Subject("another rate", "every record in every step", change=_mechanism(sampling_rate=1.0)),
    Subject("batch-coupled", "features centred over the batch", change=_centred),
)
