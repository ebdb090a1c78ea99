"""Each known way in which DP training is silently not private, planted into engine or model: the preflight says so.

Every plant was, or is, a bug of somebody's: of PEFT and Opacus together, of training loops on the web, of benchmarks
that state an epsilon nobody spent. None is caught by looking at the loss.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privacy.dp import engine, mechanism_check, preflight
from privacy.dp.allowlist import Kind
from privacy.errors import Refused

Patch = pytest.MonkeyPatch


def check(model: nn.Module, dp: SimpleNamespace, **options: Any) -> preflight.PreflightReport:
    rates = options.pop("rates", None) or dp.rates(model)
    return preflight.preflight(
        model,
        dp.synthetic,
        dp.mechanism(),
        rates,
        state_of=options.pop("state_of", lambda model: {n: p for n, p in model.named_parameters() if p.requires_grad}),
        load_state=lambda model, state: model.load_state_dict(state, strict=False),
        **options,
    )


def test_without_a_plant_it_passes(dp: SimpleNamespace) -> None:
    assert len(check(dp.bert_ffa_lora(), dp).findings) == 12


def without_allow_list(patch: Patch) -> None:
    def anything(model: nn.Module) -> dict[str, Kind]:
        return {name: Kind.HEAD for name, p in model.named_parameters() if p.requires_grad}

    patch.setattr(preflight, "check_allowed", anything)
    patch.setattr(engine, "check_allowed", anything)


# -- models ------------------------------------------------------------------------------------------------------------


def pefts_prompt_tuning(dp: SimpleNamespace) -> nn.Module:
    from peft import PromptTuningConfig, get_peft_model

    return get_peft_model(dp.bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=6))


def test_opacus_on_pefts_own_prompt_tuning(dp: SimpleNamespace, monkeypatch: Patch) -> None:
    """The allow-list says no; and if it did not, the engine would not find a gradient for each example."""
    with pytest.raises(Refused, match="once per batch"):
        check(pefts_prompt_tuning(dp), dp)
    without_allow_list(monkeypatch)
    with pytest.raises(Refused, match=r"prompt_encoder.*has no gradient for each single example"):
        check(pefts_prompt_tuning(dp), dp)


def with_batch_norm(dp: SimpleNamespace, *, train: bool) -> nn.Module:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.words = nn.Embedding(50, 8).requires_grad_(requires_grad=False)
            self.norm = nn.BatchNorm1d(8, track_running_stats=False).requires_grad_(requires_grad=train)
            self.head = nn.Linear(8, 3)

        def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
            hidden = self.words(input_ids).mean(dim=1)
            return self.head(hidden if len(hidden) == 1 else self.norm(hidden))

    return Normed()


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm(dp: SimpleNamespace, monkeypatch: Patch, train: bool) -> None:
    with pytest.raises(Refused, match="BatchNorm1d computes over the batch"):
        check(with_batch_norm(dp, train=train), dp)
    without_allow_list(monkeypatch)
    with pytest.raises(Refused, match="influence each other"):
        check(with_batch_norm(dp, train=False), dp)


# -- losses ------------------------------------------------------------------------------------------------------------


def token_mean(losses: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The batch's sum over the batch's number of tokens, as language models are trained: what one example weighs hangs
    on the others' lengths.
    """
    return losses / inputs["attention_mask"].sum()


def centred(losses: torch.Tensor, _: dict[str, torch.Tensor]) -> torch.Tensor:
    return losses - losses.mean() / 2


@pytest.mark.parametrize("loss", [token_mean, centred])
def test_losses_that_couple_the_batch(dp: SimpleNamespace, monkeypatch: Patch, loss: Callable[..., Any]) -> None:
    honest = engine.example_losses

    def planted(model: nn.Module, inputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return loss(honest(model, inputs, labels), inputs)

    monkeypatch.setattr(engine, "example_losses", planted)
    monkeypatch.setattr(preflight, "example_losses", planted)
    with pytest.raises(Refused, match="examples in a batch influence each other"):
        check(dp.bert_ffa_lora(), dp)


# -- what is saved and what trains -------------------------------------------------------------------------------------


def test_the_state_of_a_wrapped_module(dp: SimpleNamespace) -> None:
    """PEFT, asked for the state of Opacus' wrapper, gives names that nothing loads (older ones gave none)."""
    from opacus import GradSampleModule
    from peft import get_peft_model_state_dict

    def wrapped_state(model: nn.Module) -> dict[str, torch.Tensor]:
        wrapper = GradSampleModule(model, strict=False)
        wrapper.peft_config = model.peft_config
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(wrapper)
        wrapper.to_standard_module()
        return state

    with pytest.raises(Refused, match="is not what was saved when the adapter is reloaded"):
        check(dp.bert_ffa_lora(), dp, state_of=wrapped_state)
    with pytest.raises(Refused, match="saved adapter: is empty"):
        check(dp.bert_ffa_lora(), dp, state_of=lambda model: {})


def test_frozen_by_mistake(dp: SimpleNamespace) -> None:
    model = dp.bert_lora()
    rates = dp.rates(model)
    frozen = next(name for name in rates if ".lora_B." in name)
    model.get_parameter(frozen).requires_grad = False
    with pytest.raises(Refused, match=rf"{frozen} has a learning rate and is no trainable parameter"):
        check(model, dp, rates=rates)


def test_detached_by_mistake(dp: SimpleNamespace, monkeypatch: Patch) -> None:
    """It requires a gradient and gets none: the loss still falls, by the head alone."""
    model = dp.bert_lora()
    encoder = model.get_base_model().bert
    honest = type(encoder).forward

    def detached(*args: Any, **options: Any) -> Any:
        output = honest(encoder, *args, **options)
        return type(output)(pooler_output=output.pooler_output.detach(), last_hidden_state=output.last_hidden_state)

    monkeypatch.setattr(encoder, "forward", detached)
    with pytest.raises(Refused, match=r"lora_A.*receives no gradient"):
        check(model, dp)


# -- noise -------------------------------------------------------------------------------------------------------------


def from_the_global_generator(_: Any, tensor: torch.Tensor, std: float) -> torch.Tensor:
    return tensor.add_(std * torch.randn(tensor.shape, dtype=tensor.dtype))


def skipping_empty_batches(draw: Callable[[], np.ndarray], tensor: torch.Tensor, std: float) -> None:
    if tensor.any():
        tensor.add_(torch.from_numpy(std * draw()))


def half_as_much(draw: Callable[[], np.ndarray], tensor: torch.Tensor, std: float) -> None:
    tensor.add_(torch.from_numpy(std / 2 * draw()))


def not_times_the_clip(draw: Callable[[], np.ndarray], tensor: torch.Tensor, std: float) -> None:
    tensor.add_(torch.from_numpy(std / 0.5 * draw()))  # 0.5: the clip of `dp.mechanism()`


@pytest.mark.parametrize(
    ("noise", "complaint"),
    [
        (from_the_global_generator, "two rounds under equal global seeds add like noise"),
        (skipping_empty_batches, "no noise in a step that draws nobody"),
        (half_as_much, "the noise has not the promised variance"),
        (not_times_the_clip, "the noise has not the promised variance"),
    ],
)
def test_noise_that_protects_less(
    dp: SimpleNamespace, monkeypatch: Patch, noise: Callable[..., Any], complaint: str
) -> None:
    """Each counts its additions as the honest one does, so that the engine's own count is satisfied."""

    def planted(self: engine.GaussianNoise, tensor: torch.Tensor, std: float) -> None:
        noise(lambda: self._bits.standard_normal(tuple(tensor.shape)), tensor, std)
        self._additions += 1

    monkeypatch.setattr(engine.GaussianNoise, "add_", planted)
    with pytest.raises(Refused, match=complaint):
        check(dp.bert_ffa_lora(), dp)


def test_one_seed_for_all_silos(dp: SimpleNamespace, monkeypatch: Patch) -> None:
    monkeypatch.setattr(engine.Randomness, "from_os", lambda: engine.Randomness.deterministic_for_tests(42))
    with pytest.raises(Refused, match="two rounds under equal global seeds add like noise"):
        check(dp.bert_ffa_lora(), dp)


# -- sampling and steps ------------------------------------------------------------------------------------------------


def one_over_the_batches(honest: Callable[[], np.ndarray], units: int) -> np.ndarray:
    """As a loader with batches of a quarter of the data would have it, where the plan says a half."""
    return np.flatnonzero(np.random.default_rng().random(units) < 0.25).astype(np.int64)


def never_empty(honest: Callable[[], np.ndarray], units: int) -> np.ndarray:
    found = honest()
    return found if len(found) else np.zeros(1, dtype=np.int64)


def seeded(honest: Callable[[], np.ndarray], units: int) -> np.ndarray:
    return np.flatnonzero(torch.rand(units).numpy() < 0.5).astype(np.int64)


@pytest.mark.parametrize(
    ("sample", "complaint"),
    [
        (one_over_the_batches, "units are not drawn at the planned rate"),
        (never_empty, "an empty sample is a step too"),
    ],
)
def test_samples_that_the_accountant_does_not_know(
    dp: SimpleNamespace, monkeypatch: Patch, sample: Callable[..., Any], complaint: str
) -> None:
    honest = engine.PoissonSampler.draw

    def planted(self: engine.PoissonSampler) -> np.ndarray:
        if self._rate == mechanism_check.NEVER and sample is not never_empty:
            return honest(self)
        return sample(lambda: honest(self), self._units)

    monkeypatch.setattr(engine.PoissonSampler, "draw", planted)
    with pytest.raises(Refused, match=complaint):
        check(dp.bert_ffa_lora(), dp)


def test_samples_that_everybody_can_repeat(dp: SimpleNamespace, monkeypatch: Patch) -> None:
    honest = engine.PoissonSampler.draw
    monkeypatch.setattr(
        engine.PoissonSampler,
        "draw",
        lambda self: honest(self) if self._rate == mechanism_check.NEVER else seeded(lambda: honest(self), self._units),
    )
    with pytest.raises(Refused, match="draw the same units"):
        check(dp.bert_ffa_lora(), dp)


@pytest.mark.parametrize("epochs", [2, 3])
def test_epochs_for_steps(dp: SimpleNamespace, monkeypatch: Patch, epochs: int) -> None:
    honest = mechanism_check.train_round

    def planted(model: nn.Module, examples: Any, mechanism: Any, *rest: Any, **options: Any) -> engine.Executed:
        more = mechanism.model_copy(update={"steps_per_round": epochs * mechanism.steps_per_round})
        return honest(model, examples, more, *rest, **options)

    monkeypatch.setattr(mechanism_check, "train_round", planted)
    with pytest.raises(Refused, match=r"runs \d+ steps where \d+ are planned"):
        check(dp.bert_ffa_lora(), dp)
