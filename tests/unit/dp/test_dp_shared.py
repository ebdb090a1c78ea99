"""One silo's share of the noise: what is summed, rounded and covered, and what it counts."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from privacy.ckks.sampling import SecureBits, draw_wide_gaussian
from privacy.dp import mechanism_check, preflight, shared
from privacy.dp.engine import train_round
from privacy.dp.randomness import Randomness
from privacy.dp.shared import ShareOfNoise, sum_round
from privacy.errors import InternalError, Refused
from privacy.mechanism import DpSgd
from privacy.shared_noise import SharedGrid

SHARES = 4


def mechanism_of(dp: SimpleNamespace, **changes: object) -> DpSgd:
    fields = {"noise": "shared", "noise_shares": SHARES, "steps_per_round": 1, "noise_multiplier": 1.5, **changes}
    mechanism: DpSgd = dp.mechanism(**fields)
    return mechanism


def grid_of(mechanism: DpSgd, model: nn.Module) -> SharedGrid:
    return mechanism.shared_grid(sum(p.numel() for p in model.parameters() if p.requires_grad), 16)


class Fixed(SecureBits):
    """A stream that repeats; what was drawn from it can be drawn again."""

    def __init__(self) -> None:
        self._start(bytes(32))


def noise_of(grid: SharedGrid, values: int) -> tuple[np.ndarray, np.ndarray]:
    bits = Fixed()
    dither = np.frombuffer(bits.take(4 * values), "<u4") * 2.0**-32
    return dither, draw_wide_gaussian(grid.exact_variance, values, bits)


def test_a_sum_is_scaled_rounded_and_covered() -> None:
    grid = SharedGrid(16, scale=100.0, sensitivity=0.0, variance=10_000, margin=1350, reach=1.0, rounding_cost=0.0)
    total = torch.linspace(-200, 200, 5000, dtype=torch.float64)
    dither, noise = noise_of(grid, 5000)
    found = ShareOfNoise(grid, Fixed()).cover(total).astype(np.int64) - noise
    assert (found == np.floor(32767.5 - 100 * total.numpy() + dither)).all()


def test_a_sum_too_long_is_kept_from_the_ends_before_the_noise_so_that_no_noise_is_cut_off() -> None:
    grid = SharedGrid(16, scale=1.0, sensitivity=0.0, variance=1_000_000, margin=13_500, reach=1.0, rounding_cost=0.0)
    for end, sign in ((13_500, 1.0), (65_535 - 13_500, -1.0)):
        _, noise = noise_of(grid, 200_000)
        found = ShareOfNoise(grid, Fixed()).cover(torch.full((200_000,), sign * 1e9, dtype=torch.float64))
        assert (found.astype(np.int64) - noise == end).all()
        assert abs((found.astype(np.float64) - end).std() / 1000 - 1) < 0.01


def test_the_shares_of_the_honest_make_up_the_promised_noise(dp: SimpleNamespace) -> None:
    model = dp.bert_ffa_lora()
    mechanism = mechanism_of(dp)
    grid = grid_of(mechanism, model)
    covered = [ShareOfNoise(grid, SecureBits()).cover(torch.zeros(50_000, dtype=torch.float64)) for _ in range(SHARES)]
    total = np.sum([each.astype(np.float64) - grid.top / 2 for each in covered], axis=0)
    promised = mechanism.noise_multiplier * grid.sensitivity
    assert abs(total.std() / promised - 1) < 0.02  # 5 standard errors
    assert abs(total.mean()) < 0.02 * promised
    assert abs(np.corrcoef(covered[0], covered[1])[0, 1]) < 0.025


def test_a_round_s_sum_is_that_of_a_step_of_dp_sgd(dp: SimpleNamespace) -> None:
    """The same units, clipped alike: taken off the grid it is where a step without noise goes."""
    model, records = dp.bert_ffa_lora(), dp.Records(12)
    mechanism = mechanism_of(dp, noise_multiplier=0.01, expected_batch_size=3.0)
    rates = dict.fromkeys(dp.rates(model), 1.0)
    grid = grid_of(mechanism, model)
    noised, executed = sum_round(
        model, records, mechanism, rates, grid, randomness=Randomness.deterministic_for_tests(4)
    )
    start = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]).double()
    one_step = dp.mechanism(steps_per_round=1, noise_multiplier=1e-9, expected_batch_size=3.0)
    train_round(model, records, one_step, rates, randomness=Randomness.deterministic_for_tests(4))
    moved = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]).double() - start
    found = (torch.from_numpy(noised.astype(np.float64)) * 2 / grid.top - 1) * grid.reach
    assert (executed.steps, executed.noise_additions, executed.empty_steps) == (1, 1, 0)
    deviation = grid.variance**0.5 / grid.scale / 3.0
    assert float((found - moved).abs().max()) < 6 * deviation < 0.2 * float(moved.abs().max())
    assert float((found - moved).std()) == pytest.approx(deviation, rel=0.2)


def test_the_model_stays_where_it_is_and_an_empty_sample_is_noise(dp: SimpleNamespace) -> None:
    model = dp.bert_ffa_lora()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    mechanism = mechanism_of(dp, sampling_rate=1e-12)
    grid = grid_of(mechanism, model)
    noised, executed = sum_round(model, dp.Records(12), mechanism, dp.rates(model), grid)
    assert (executed.steps, executed.noise_additions, executed.empty_steps) == (1, 1, 1)
    assert abs((noised.astype(np.float64) - grid.top / 2).std() / grid.variance**0.5 - 1) < 0.2
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_global_seeds_do_not_reach_it(dp: SimpleNamespace) -> None:
    model = dp.bert_ffa_lora()
    mechanism = mechanism_of(dp)
    drawn = []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        drawn.append(sum_round(model, dp.Records(12), mechanism, dp.rates(model), grid_of(mechanism, model))[0])
    assert (drawn[0] == drawn[1]).mean() < 0.1


def test_a_forked_copy_adds_no_noise(dp: SimpleNamespace) -> None:
    grid = grid_of(mechanism_of(dp), dp.bert_ffa_lora())
    noise = ShareOfNoise(grid, SecureBits())
    if (child := os.fork()) == 0:
        try:
            noise.cover(torch.zeros(10, dtype=torch.float64))
        except InternalError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("total", [torch.zeros(3), torch.tensor([1.0, float("nan")], dtype=torch.float64)])
def test_what_cannot_be_covered(dp: SimpleNamespace, total: torch.Tensor) -> None:
    noise = ShareOfNoise(grid_of(mechanism_of(dp), dp.bert_ffa_lora()), SecureBits())
    with pytest.raises(InternalError, match="shared noise: asked to cover"):
        noise.cover(total)
    assert noise.additions == 0


def check(model: nn.Module, dp: SimpleNamespace, mechanism: DpSgd, grid: SharedGrid) -> preflight.PreflightReport:
    return preflight.preflight(
        model,
        dp.synthetic,
        mechanism,
        dp.rates(model),
        state_of=lambda model: {n: p for n, p in model.named_parameters() if p.requires_grad},
        load_state=lambda model, state: model.load_state_dict(state, strict=False),
        grid=grid,
    )


def test_the_preflight_measures_the_share(dp: SimpleNamespace) -> None:
    model, mechanism = dp.bert_ffa_lora(), mechanism_of(dp)
    assert len(check(model, dp, mechanism, grid_of(mechanism, model)).findings) == 12


class _Weak(ShareOfNoise):
    def cover(self, total: torch.Tensor) -> np.ndarray:
        self._additions += 1
        steady = np.floor(total.numpy() * -self._grid.scale + self._grid.top / 2 + 0.5)
        return (steady + draw_wide_gaussian(self._grid.exact_variance / 2, len(total), self._bits)).astype(np.uint16)


class _Alike(ShareOfNoise):
    def __init__(self, grid: SharedGrid, _: SecureBits) -> None:
        super().__init__(grid, Fixed())


class _Twice(ShareOfNoise):
    def cover(self, total: torch.Tensor) -> np.ndarray:
        super().cover(total)
        return super().cover(total)


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (_Weak, "the noise has not the promised variance"),
        (_Alike, "add like noise"),
        (_Twice, "notes 2 covered sums in a round of one step"),
    ],
)
def test_planted_bugs_are_found(
    dp: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, plant: type[ShareOfNoise], why: str
) -> None:
    monkeypatch.setattr(shared, "ShareOfNoise", plant)
    model, mechanism = dp.bert_ffa_lora(), mechanism_of(dp)
    with pytest.raises(Refused, match=why):
        check(model, dp, mechanism, grid_of(mechanism, model))
    assert mechanism_check.sum_round is sum_round
