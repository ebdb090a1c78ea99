"""Attack: a record whose tokens' gradients nearly cancel escapes ghost clipping. Jobs clip by hooks, which hold.

The adversary writes one record. Ghost clipping reads its norm from float32 Gram matrices, where the cancellation is
lost: the norm comes out too small and the record contributes more than the clip. Why `train_round` defaults to hooks.
"""

import inspect

import torch
from torch import nn

from privacy.dp.engine import ClippedGradients, Clipping, train_round
from privacy.dp.preflight import preflight

CLIP = 1.0


class TwoTokens(nn.Module):
    """A linear head over two tokens, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(tokens).sum(dim=1)


def contribution(clipping: Clipping) -> float:
    """The norm of what one hostile record adds to the clipped sum."""
    generator = torch.Generator().manual_seed(5)
    token = 1e5 * torch.randn(8, generator=generator)
    hostile = torch.stack([token, -token + 10 * torch.randn(8, generator=generator)])[None]
    model = TwoTokens()
    with ClippedGradients(model, dict(model.named_parameters()), clipping) as gradients:
        return float(gradients.sum({"tokens": hostile}, torch.tensor([0]), CLIP).total.norm())


def test_ghost_lets_the_record_through_and_hooks_does_not() -> None:
    assert contribution("ghost") > 1.5 * CLIP
    assert contribution("hooks") <= CLIP


def test_what_trains_a_job_clips_by_hooks() -> None:
    for function in (train_round, preflight):
        assert inspect.signature(function).parameters["clipping"].default == "hooks"
