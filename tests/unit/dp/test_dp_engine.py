"""DP-SGD: what it computes, against plain autograd; what it counts; what it leaves behind."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from privacy.dp.engine import (
    UNLABELLED,
    ClippedGradients,
    Executed,
    dropout_off,
    example_losses,
    train_round,
    trained_parameters,
)
from privacy.dp.preflight import gradients_one_by_one
from privacy.dp.randomness import Randomness
from privacy.dp.sampler import PoissonSampler
from privacy.errors import InternalError, Refused

BOTH = pytest.mark.parametrize("clipping", ["ghost", "hooks"])
SILENT = 1e-9  # a noise multiplier that leaves the arithmetic to be seen


def shake(model: nn.Module) -> None:
    """Off zero, so that LoRA's A has a gradient."""
    bits = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=bits))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]).double()


def test_clipped_sum_equals_one_by_one_autograd(allowed: tuple[nn.Module, str], dp: SimpleNamespace) -> None:
    model, clipping = allowed
    shake(model)
    inputs, labels = dp.synthetic(6)
    parameters = trained_parameters(model, dp.rates(model))
    with dropout_off(model):
        alone = gradients_one_by_one(model, parameters, inputs, labels)
        clip = float(alone.norm(dim=1).median())
        with ClippedGradients(model, parameters, clipping) as gradients:
            clipped = gradients.sum(inputs, labels, clip)
    expected = (alone * (clip / alone.norm(dim=1).clamp(min=clip))[:, None]).sum(dim=0)
    torch.testing.assert_close(clipped.norms, alone.norm(dim=1), rtol=1e-5, atol=0)
    assert float((clipped.total - expected).norm() / expected.norm()) < 1e-5


@BOTH
@pytest.mark.parametrize("proximal", [0.0, 2.5], ids=["fedavg", "fedprox"])
def test_a_round_is_sgd_on_the_clipped_sums_over_the_public_batch_size(
    dp: SimpleNamespace, clipping: str, proximal: float
) -> None:
    """And with a proximal term each step goes back by lr * mu * (parameters - start), neither clipped nor noised."""
    model, records = dp.bert_ffa_lora(), dp.Records(12)
    shake(model)
    mechanism = dp.mechanism(noise_multiplier=SILENT, expected_batch_size=3.7, steps_per_round=3, proximal=proximal)
    start = expected = flat(model)
    sampler = PoissonSampler(12, 0.5, Randomness.deterministic_for_tests(4).sampling)
    oracle = dp.bert_ffa_lora()
    shake(oracle)
    for _ in range(3):
        units = sampler.draw()
        assert len(units) > 0
        with dropout_off(oracle):
            alone = gradients_one_by_one(
                oracle, trained_parameters(oracle, dp.rates(oracle)), *dp.Records(12).batch(units)
            )
        total = (alone * (0.5 / alone.norm(dim=1).clamp(min=0.5))[:, None]).sum(dim=0)
        moved = proximal * (expected - start)
        expected = expected - 0.1 * (total / 3.7 + moved)  # the public divisor, not the sample's size
        torch.nn.utils.vector_to_parameters(expected.float(), trained_parameters(oracle, dp.rates(oracle)).values())
    train_round(
        model,
        records,
        mechanism,
        dp.rates(model),
        randomness=Randomness.deterministic_for_tests(4),
        clipping=clipping,
    )
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=2e-6)


def test_physical_batches_change_nothing_and_bound_memory(dp: SimpleNamespace) -> None:
    results = []
    for physical in (64, 3):
        model, records = dp.bert_lora(), dp.Records(20)
        shake(model)
        train_round(
            model,
            records,
            dp.mechanism(),
            dp.rates(model),
            randomness=Randomness.deterministic_for_tests(1),
            max_physical_batch=physical,
        )
        assert max(records.asked) <= physical
        results.append(flat(model))
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_learning_rates_are_per_parameter(dp: SimpleNamespace) -> None:
    moved = []
    for rate in (0.1, 0.3):
        model = dp.bert_head()
        before = dp.trained(model)
        rates = {"classifier.weight": 0.1, "classifier.bias": rate}
        train_round(
            model,
            dp.Records(4),
            dp.mechanism(steps_per_round=1),
            rates,
            randomness=Randomness.deterministic_for_tests(1),
        )
        moved.append({name: value - before[name] for name, value in dp.trained(model).items()})
    torch.testing.assert_close(moved[0]["classifier.weight"], moved[1]["classifier.weight"])
    torch.testing.assert_close(3 * moved[0]["classifier.bias"], moved[1]["classifier.bias"], rtol=1e-4, atol=1e-7)


def test_noise_has_the_promised_size_and_is_added_once_a_step(dp: SimpleNamespace) -> None:
    """With no unit sampled, all that moves the 3 x 16 + 3 head parameters is noise: std lr sigma C / B a step."""
    moves = []
    for seed in range(60):
        model = dp.bert_head()
        before = flat(model)
        mechanism = dp.mechanism(
            sampling_rate=1e-12, noise_multiplier=2.0, clip_l2=0.5, expected_batch_size=10.0, steps_per_round=4
        )
        executed = train_round(
            model,
            dp.Records(5),
            mechanism,
            dp.rates(model, 1.0),
            randomness=Randomness.deterministic_for_tests(seed),
            max_physical_batch=1,
        )
        assert executed == Executed(steps=4, noise_additions=4, empty_steps=4)
        moves.append(flat(model) - before)
    values = torch.cat(moves) / (4**0.5 * 2.0 * 0.5 / 10.0)
    assert len(values) == 60 * 51
    assert abs(float(values.mean())) < 0.1  # 5.5 standard errors
    assert abs(float(values.std()) - 1) < 0.08  # 6 standard errors


def test_many_physical_batches_get_one_noise_addition(dp: SimpleNamespace) -> None:
    model, records = dp.bert_head(), dp.Records(9)
    executed = train_round(
        model, records, dp.mechanism(sampling_rate=1.0, steps_per_round=2), dp.rates(model), max_physical_batch=2
    )
    assert records.asked == [2, 2, 2, 2, 1] * 2
    assert executed == Executed(steps=2, noise_additions=2, empty_steps=0)


def test_empty_batches_are_never_forwarded_and_are_charged(dp: SimpleNamespace) -> None:
    model, records, seen = dp.bert_lora(), dp.Records(3), []
    executed = train_round(
        model,
        records,
        dp.mechanism(sampling_rate=1e-12, steps_per_round=5),
        dp.rates(model),
        on_step=lambda done, planned: seen.append((done, planned)),
    )
    assert records.asked == []
    assert executed == Executed(steps=5, noise_additions=5, empty_steps=5)
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_equal_torch_seeds_give_different_noise(dp: SimpleNamespace) -> None:
    ends = []
    for _ in range(2):
        model = dp.bert_head()
        torch.manual_seed(42)
        np.random.seed(42)
        train_round(model, dp.Records(4), dp.mechanism(sampling_rate=1.0, steps_per_round=1), dp.rates(model))
        ends.append(flat(model))
    assert not torch.isclose(*ends, rtol=0, atol=1e-9).any()


def test_equal_test_randomness_gives_equal_rounds_dropout_or_not(dp: SimpleNamespace) -> None:
    ends = []
    for seed in (1, 2):
        model = dp.bert_lora()  # has LoRA dropout and BERT's own
        torch.manual_seed(seed)
        randomness = Randomness.deterministic_for_tests(3)
        train_round(model, dp.Records(8), dp.mechanism(), dp.rates(model), randomness=randomness)
        ends.append(flat(model))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)  # threaded sums differ in their last bits


@BOTH
def test_an_example_with_a_gradient_that_is_not_finite_contributes_zero(dp: SimpleNamespace, clipping: str) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.head(features)

    torch.manual_seed(0)
    model = Head()
    parameters = trained_parameters(model, dp.rates(model))
    features, labels = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    broken = features.clone()
    broken[1, 2], broken[3, 0] = float("nan"), 3e38
    with dropout_off(model), ClippedGradients(model, parameters, clipping) as gradients:
        clipped = gradients.sum({"features": broken}, labels, 0.5)
        finite = gradients.sum({"features": features[[0, 2]]}, labels[[0, 2]], 0.5)
        nobody = gradients.sum({"features": broken[[1]]}, labels[[1]], 0.5)
    torch.testing.assert_close(clipped.total, finite.total)
    assert not nobody.total.any()


@BOTH
def test_nothing_is_left_on_the_model_even_after_an_exception(dp: SimpleNamespace, clipping: str) -> None:
    model, records = dp.bert_lora(), dp.Records(6)
    model.train()

    def traces() -> list[object]:
        modules = [
            (name, m.training, len(m._forward_hooks), len(m._backward_hooks), sorted(vars(m)))
            for name, m in model.named_modules()
        ]
        return [modules, [sorted(vars(p)) for p in model.parameters()], [p.grad for p in model.parameters()]]

    def stop(done: int, planned: int) -> None:
        raise KeyboardInterrupt

    before = traces()
    train_round(model, records, dp.mechanism(), dp.rates(model), clipping=clipping)
    assert traces() == before
    with pytest.raises(KeyboardInterrupt):
        train_round(model, records, dp.mechanism(), dp.rates(model), clipping=clipping, on_step=stop)
    assert traces() == before
    from peft import get_peft_model_state_dict

    assert len(get_peft_model_state_dict(model)) == 10  # 2 layers x query, value x A, B, and the head's two


def test_frozen_weights_stay_bit_for_bit(dp: SimpleNamespace) -> None:
    model = dp.bert_ffa_lora()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    start = dp.trained(model)
    train_round(model, dp.Records(6), dp.mechanism(), dp.rates(model))
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(not torch.equal(now[name], value) for name, value in start.items())


def test_a_trainable_parameter_without_a_learning_rate_is_refused(dp: SimpleNamespace) -> None:
    model = dp.bert_head()
    with pytest.raises(Refused, match=r"classifier\.weight is trainable and has no learning rate"):
        train_round(model, dp.Records(3), dp.mechanism(), {"classifier.bias": 0.1})


def test_a_learning_rate_without_a_trainable_parameter_is_refused(dp: SimpleNamespace) -> None:
    model = dp.bert_head()
    with pytest.raises(Refused, match=r"bert\.pooler is no|bert\.pooler has a learning rate"):
        train_round(model, dp.Records(3), dp.mechanism(), dp.rates(model) | {"bert.pooler": 0.1})


def test_what_the_allow_list_refuses_is_refused_before_any_record_is_read(dp: SimpleNamespace) -> None:
    model, records = dp.bert(), dp.Records(3)
    with pytest.raises(Refused, match="full fine-tuning"):
        train_round(model, records, dp.mechanism(), dp.rates(model))
    assert records.asked == []


class Tagger(nn.Module):
    """Logits for each position, [batch, positions, 3]; `ahead` further positions stand before the text's."""

    def __init__(self, ahead: int = 0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(50, 4).requires_grad_(requires_grad=False)
        self.head = nn.Linear(4, 3)
        self.ahead = ahead

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([input_ids[:, : self.ahead], input_ids], dim=1)
        logits: torch.Tensor = self.head(self.embed(ids))
        return logits


def tags_of(examples: int) -> torch.Tensor:
    """Labels for all, some or none of the seven positions of each example."""
    labels = torch.randint(0, 3, (examples, 7), generator=torch.Generator().manual_seed(8))
    for i in range(examples):
        labels[i, : 3 * i % 8] = UNLABELLED
    return labels


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_loss_of_an_example_with_labelled_positions_is_their_mean_alone(dp: SimpleNamespace, ahead: int) -> None:
    inputs, labels = dp.synthetic(6)[0], tags_of(6)
    assert (labels == UNLABELLED).all(dim=1).any()
    model = Tagger(ahead)
    together = example_losses(model, inputs, labels)
    logits = model(**inputs)[:, ahead:]
    for i in range(6):
        counted = labels[i] != UNLABELLED
        expected = nn.functional.cross_entropy(logits[i][counted], labels[i][counted]) if counted.any() else 0.0
        assert float(together[i]) == pytest.approx(float(expected), rel=1e-5)


def test_clipped_sums_over_labelled_positions_equal_one_by_one_autograd(dp: SimpleNamespace) -> None:
    model, inputs, labels = Tagger(), dp.synthetic(6)[0], tags_of(6)
    parameters = trained_parameters(model, dp.rates(model))
    alone = gradients_one_by_one(model, parameters, inputs, labels)
    clip = float(alone.norm(dim=1).median())
    with dropout_off(model), ClippedGradients(model, parameters, "hooks") as gradients:
        clipped = gradients.sum(inputs, labels, clip)
    expected = (alone * (clip / alone.norm(dim=1).clamp(min=clip))[:, None]).sum(dim=0)
    torch.testing.assert_close(clipped.total, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("labels", [torch.zeros(6, dtype=torch.int64), torch.zeros((6, 9), dtype=torch.int64)])
def test_labels_that_do_not_fit_the_logits_are_refused(dp: SimpleNamespace, labels: torch.Tensor) -> None:
    with pytest.raises(Refused, match=r"its logits have shape \(6, 7, 3\) for labels of shape"):
        example_losses(Tagger(), dp.synthetic(6)[0], labels)


def test_a_batch_with_two_rows_for_a_unit_is_a_bug(dp: SimpleNamespace) -> None:
    class Twice(dp.Records):
        def batch(self, units: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            return super().batch(np.concatenate([units, units[:1]]))

    model = dp.bert_head()
    with pytest.raises(InternalError, match="one example per sampled unit"):
        train_round(model, Twice(3), dp.mechanism(sampling_rate=1.0), dp.rates(model))
