"""Does the engine sample and add noise as the accountant assumes? The self-test's second half.

It runs `train_round` itself (or `sum_round`, where silos share the noise), on nobody's records: with a rate at which
nobody is drawn, a step is noise alone; with made-up units that stop the round as soon as they are drawn, a round is its
sample alone. Both are random, so each bound leaves eight standard deviations: a sound engine fails once in far more
runs than there will be.
"""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from privacy.dp.engine import Clipping, flat, train_round
from privacy.dp.findings import Finding, failed, within
from privacy.dp.sampler import Indices
from privacy.dp.shared import sum_round
from privacy.mechanism import DpSgd
from privacy.shared_noise import SharedGrid

NEVER = 1e-12  # a rate at which one unit is not drawn
NOISE_VALUES = 4096  # at least as many values of noise are looked at
DRAWS, DRAWN = 64, 64  # so many samples, each of about so many units
MOST_UNITS = 1_000_000
DEVIATIONS = 8.0
ROUNDING_VARIANCE = 0.25  # of floor(k + 1/2 + u): the middle of a grid lies between two of its values


def check_mechanism(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    clipping: Clipping,
    grid: SharedGrid | None = None,
) -> tuple[Finding, ...]:
    """Noise of the promised size on every step, empty ones too, which no seed repeats; and the promised sampling rate.

    With a `grid` (noise = "shared") the size is that of one silo's share. Moves the parameters. Raises Refused naming
    what the engine does otherwise.
    """
    return (
        *check_noise(model, parameters, mechanism, learning_rates, clipping, grid),
        *check_sampling(model, mechanism, learning_rates, clipping, grid),
    )


def check_noise(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    clipping: Clipping,
    grid: SharedGrid | None = None,
) -> tuple[Finding, Finding]:
    """A step that draws nobody adds N(0, (sigma C)^2), or its share, to every value, and another under equal seeds."""
    values = sum(parameter.numel() for parameter in parameters.values())
    steps = math.ceil(NOISE_VALUES / values)
    nobody = mechanism.model_copy(update={"sampling_rate": NEVER, "proximal": 0.0})
    if grid is not None:
        first, second = (_shares(model, nobody, learning_rates, grid, steps) for _ in range(2))
    else:
        alone = nobody.model_copy(update={"steps_per_round": steps})
        each = torch.cat([torch.full((p.numel(),), learning_rates[name]) for name, p in parameters.items()]).double()
        unit = each * mechanism.noise_multiplier * mechanism.clip_l2 / mechanism.expected_batch_size
        first, second = (_noise(model, parameters, alone, learning_rates, clipping) / unit for _ in range(2))
    if not first.any(dim=1).all():
        raise failed("the engine", "adds no noise in a step that draws nobody, which tells that nobody was drawn")
    size = first.numel()
    spread = abs(float(first.square().mean()) - 1)
    why = "the noise has not the promised variance"
    variance = within("variance of the noise", spread, DEVIATIONS * math.sqrt(2 / size), "the engine", why)
    likeness = abs(float((first * second).mean()))
    why = "two rounds under equal global seeds add like noise, so that silos' noise would cancel"
    fresh = within("likeness of two rounds' noise", likeness, DEVIATIONS / math.sqrt(size), "the engine", why)
    return variance, fresh


def _noise(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    clipping: Clipping,
) -> torch.Tensor:
    """What each step of a round moves the parameters by, [steps, values]; from zero, where float32 is exact enough."""
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
    places = [flat(parameters)]
    with _equal_seeds():
        executed = train_round(
            model,
            _Nobody(),
            mechanism,
            learning_rates,
            clipping=clipping,
            on_step=lambda *_: places.append(flat(parameters)),
        )
    if not executed.steps == len(places) - 1 == mechanism.steps_per_round:
        why = f"runs {executed.steps} steps where {mechanism.steps_per_round} are planned"
        raise failed("the engine", why)
    return torch.stack(places).diff(dim=0)


def _shares(
    model: nn.Module,
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    grid: SharedGrid,
    rounds: int,
) -> torch.Tensor:
    """What rounds that draw nobody give, [rounds, values], in deviations of a silo's share and of rounding."""
    sums = []
    with _equal_seeds():
        for _ in range(rounds):
            noised, executed = sum_round(model, _Nobody(), mechanism, learning_rates, grid)
            if not executed.steps == executed.noise_additions == 1:
                raise failed("the engine", f"notes {executed.noise_additions} covered sums in a round of one step")
            sums.append(torch.from_numpy(noised.astype(np.float64)))
    return (torch.stack(sums) - grid.top / 2) / math.sqrt(grid.variance + ROUNDING_VARIANCE)


def check_sampling(
    model: nn.Module,
    mechanism: DpSgd,
    learning_rates: Mapping[str, float],
    clipping: Clipping,
    grid: SharedGrid | None = None,
) -> tuple[Finding, ...]:
    """Units are drawn at the planned rate, and others under equal global seeds."""
    rate = mechanism.sampling_rate
    census = _Census(min(MOST_UNITS, math.ceil(DRAWN / rate)))
    one_step = mechanism.model_copy(update={"steps_per_round": 1})
    for _ in range(DRAWS):
        try:
            with _equal_seeds():
                if grid is None:
                    train_round(
                        model, census, one_step, learning_rates, clipping=clipping, max_physical_batch=census.units
                    )
                else:
                    sum_round(model, census, one_step, learning_rates, grid, max_physical_batch=census.units)
        except _Drawn:
            continue
    expected = DRAWS * census.units * rate
    deviation = abs(sum(len(units) for units in census.drawn) - expected) / expected
    bound = DEVIATIONS * math.sqrt((1 - rate) / expected) + (DEVIATIONS / expected if rate < 1 else 0)
    why = "units are not drawn at the planned rate"
    finding = within("sampling rate", deviation, bound, "the engine", why)
    first, *others = census.drawn or [np.zeros(0, dtype=np.int64)]
    if rate < 1 and len(first) >= DRAWN // 2 and any(np.array_equal(first, other) for other in others):
        raise failed("the engine", "two rounds under equal global seeds draw the same units")
    return (finding,)


@contextmanager
def _equal_seeds() -> Iterator[None]:
    """Every global generator at the same place as last time, and afterwards where it was."""
    numpys, pythons = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        np.random.seed(42)
        random.seed(42)
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(pythons)


class _Nobody:
    """One unit that is never drawn."""

    units = 1

    def batch(self, units: Indices) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Not reached by a sound engine."""
        raise failed("the engine", f"draws {len(units)} units at a rate of {NEVER}: an empty sample is a step too")


class _Drawn(Exception):  # noqa: N818 - a way out of the round, not an error
    """A sample was drawn; what follows is not needed."""


class _Census:
    """Made-up units; writes down who was drawn and stops the round."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.drawn: list[Indices] = []

    def batch(self, units: Indices) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Raises _Drawn."""
        self.drawn.append(units)
        raise _Drawn
