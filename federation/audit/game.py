"""The game of an audit: is the canary among the records a silo trained on? The attacker has the published adapters.

The attacker is as strong as the guarantee allows: knows every other record, the other silos' updates, the plan and the
canary, and chose the canary so that nothing but its own gradient and the noise points in its direction. The engine is
the product's, on real features: a head on MiniLM's features of one hospital's records.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import binom
from torch import nn

from federation.audit.bound import Scores
from privacy.dp.engine import train_round
from privacy.dp.randomness import Randomness, os_seeded
from privacy.dp.sampler import Indices
from privacy.mechanism import DpSgd
from privacy.quantise import mean_from_sum, quantise

CANARY_SIZE = 20.0  # times a record's features: its gradient is far above the clip
BITS = 16


class Head(nn.Module):
    """A linear classifier of two classes without bias, at zero."""

    def __init__(self, width: int, *, centred: bool = False) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, 2, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self._centred = centred

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2]; `centred` is a planted bug: each record's features minus the batch's mean."""
        if self._centred:
            features = features - features.mean(dim=0)
        logits: torch.Tensor = self.classifier(features)
        return logits


@dataclass(frozen=True)
class Records:
    """The attacker's choice of dataset: known records, and the canary or a record that changes nothing."""

    features: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)

    @property
    def units(self) -> int:
        """Every record is one."""
        return len(self.labels)

    def batch(self, units: Indices) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The engine's port."""
        rows = torch.from_numpy(units)
        return {"features": self.features[rows]}, self.labels[rows]


@dataclass(frozen=True)
class Game:
    """What is played: the mechanism as it runs (a planted bug may have changed it), and on which records."""

    mechanism: DpSgd
    rounds: int
    known: torch.Tensor = field(repr=False)  # features [records, width]
    labels: torch.Tensor = field(repr=False)
    centred: bool = False
    noise_is_known: bool = False  # a planted bug: the attacker has the seed

    @cached_property
    def direction(self) -> torch.Tensor:
        """Of unit length, and orthogonal to every known record."""
        width = self.known.shape[1]
        drawn = torch.randn(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        basis = torch.linalg.qr(self.known.double().T).Q if len(self.known) else torch.zeros((width, 0)).double()
        rest = drawn - basis @ (basis.T @ drawn)
        unit: torch.Tensor = rest / rest.norm()
        return unit

    def dataset(self, *, present: bool) -> Records:
        """With the canary; or with a record of zero features, whose gradient is zero."""
        canary = CANARY_SIZE * self.direction.float() if present else torch.zeros(self.known.shape[1])
        labels = torch.cat([self.labels, torch.ones(1, dtype=torch.int64)])
        return Records(torch.cat([self.known, canary[None]]), labels)

    def scores(self, runs: int, *, present: bool, bug: AbstractContextManager[object] | None = None) -> Scores:
        """Each run's statistics: the likelihood ratio of what is promised, and how far it moved at all."""
        records = self.dataset(present=present)
        with bug or nullcontext():
            return np.array([self._statistics(self._play(records, run)) for run in range(runs)])

    def _statistics(self, moved: Scores) -> tuple[float, float]:
        """Of how far each round's published adapter moved the way the canary pulls, in clips.

        Were the promise kept, a round would move by N(k, steps sigma^2) where the canary was drawn k times: the ratio
        of having it among the records is Neyman and Pearson's best test.
        """
        steps, q = self.mechanism.steps_per_round, self.mechanism.sampling_rate
        spread = steps * self.mechanism.noise_multiplier**2
        drawn = np.arange(steps + 1)
        exponents = (2 * drawn * moved[:, None] - drawn**2) / (2 * spread)
        ratio = float(logsumexp(exponents, b=binom.pmf(drawn, steps, q), axis=1).sum())
        return ratio, float(np.abs(moved).sum())

    def _play(self, records: Records, run: int) -> Scores:
        moved = self._train(records, run)
        if self.noise_is_known:
            moved = moved - self._train(self.dataset(present=False), run)
        return moved

    def _train(self, records: Records, run: int) -> Scores:
        """One job: how far each round moved, [rounds]. Each update is rounded to the grid as it would be sent."""
        head = Head(records.features.shape[1], centred=self.centred)
        reach = np.full(head.classifier.weight.numel(), self._reach, np.float32)
        pull = torch.stack([-self.direction, self.direction]) / math.sqrt(2)
        moves = []
        for number in range(self.rounds):
            before = head.classifier.weight.detach().clone()
            train_round(head, records, self.mechanism, {"classifier.weight": 1.0}, randomness=self._bits(run, number))
            update = (head.classifier.weight.detach() - before).flatten().numpy()
            sent = mean_from_sum(quantise(update, reach, BITS).astype(np.uint32), reach, BITS, 1)
            moves.append(float((torch.from_numpy(sent).double().view_as(pull) * pull).sum()))
            with torch.no_grad():
                head.classifier.weight.copy_(before + torch.from_numpy(sent).float().view_as(before))
        return np.array(moves) * self.mechanism.expected_batch_size / self.mechanism.clip_l2

    @property
    def _reach(self) -> float:
        dp = self.mechanism
        return dp.steps_per_round * dp.clip_l2 * (1 + 10 * dp.noise_multiplier)

    def _bits(self, run: int, number: int) -> Randomness:
        if not self.noise_is_known:
            return Randomness.from_os()
        return Randomness(os_seeded(), Randomness.deterministic_for_tests(run * self.rounds + number).noise)
