"""What may train, and what is refused with its reason."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from privacy.dp.allowlist import Kind, check_allowed, is_norm
from privacy.errors import Refused


def test_lora_ffa_and_heads_are_allowed_and_named(dp: SimpleNamespace) -> None:
    assert set(check_allowed(dp.bert_lora()).values()) == {Kind.LORA_A, Kind.LORA_B, Kind.HEAD}
    assert set(check_allowed(dp.bert_ffa_lora()).values()) == {Kind.LORA_B, Kind.HEAD}
    gpt2 = check_allowed(dp.gpt2_lora())
    assert gpt2["base_model.model.transformer.h.0.attn.c_attn.lora_B.default.weight"] is Kind.LORA_B
    assert check_allowed(dp.bert_head()) == {"classifier.weight": Kind.HEAD, "classifier.bias": Kind.HEAD}


def test_names_and_order_are_those_of_the_model(dp: SimpleNamespace) -> None:
    model = dp.bert_lora()
    assert list(check_allowed(model)) == [name for name, p in model.named_parameters() if p.requires_grad]


def test_a_head_beside_an_encoder_in_ones_own_module_is_allowed(dp: SimpleNamespace) -> None:
    model = nn.ModuleDict({"encoder": dp.bert().bert.requires_grad_(False), "head": nn.Linear(16, 3)})
    assert check_allowed(model) == {"head.weight": Kind.HEAD, "head.bias": Kind.HEAD}


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "P_TUNING"])
def test_prompts_that_are_looked_up_once_per_batch_are_refused(dp: SimpleNamespace, method: str) -> None:
    from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model

    config = {"PROMPT_TUNING": PromptTuningConfig, "P_TUNING": PromptEncoderConfig}
    model = get_peft_model(dp.bert(), config[method](task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(Refused, match=rf"PEFT method {method}.*once per batch.*Train FFA-LoRA"):
        check_allowed(model)


def test_a_prompt_per_example_and_a_prefix_are_allowed_and_named(dp: SimpleNamespace) -> None:
    name = "prompt_encoder.default.embedding.weight"
    assert check_allowed(dp.bert_prompt())[name] is Kind.PROMPT
    assert check_allowed(dp.gpt2_prefix())[name] is Kind.PROMPT


def test_a_copy_of_a_model_does_not_inherit_its_prompt(dp: SimpleNamespace) -> None:
    """It would look up the original's prompt, whose gradients are not the copy's."""
    model, other = dp.bert_prompt(), dp.bert_prompt()
    vars(other)["get_prompt"] = vars(model)["get_prompt"]
    with pytest.raises(Refused, match="once per batch"):
        check_allowed(other)


def test_a_prefix_that_is_projected_is_refused(dp: SimpleNamespace) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=2, prefix_projection=True, encoder_hidden_size=8
    )
    with pytest.raises(Refused, match=r"prompt_encoder\.default\.embedding\.weight .*Embedding.*not on the allow-list"):
        check_allowed(get_peft_model(dp.gpt2(), config))


@pytest.mark.parametrize("method", ["IA3", "VERA", "LOHA"])
def test_other_peft_methods_are_refused(dp: SimpleNamespace, method: str) -> None:
    from peft import IA3Config, LoHaConfig, VeraConfig, get_peft_model

    configs = {
        "IA3": IA3Config(task_type="SEQ_CLS", target_modules=["query"], feedforward_modules=[]),
        "VERA": VeraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]),
        "LOHA": LoHaConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]),
    }
    with pytest.raises(Refused, match=f"PEFT method {method}"):
        check_allowed(get_peft_model(dp.bert(), configs[method]))


def test_dora_is_refused(dp: SimpleNamespace) -> None:
    with pytest.raises(Refused, match=r"DoRA on .*magnitude vector"):
        check_allowed(dp.lora(dp.bert(), use_dora=True))


def test_lora_on_embeddings_is_refused(dp: SimpleNamespace) -> None:
    with pytest.raises(Refused, match="its target is a Embedding"):
        check_allowed(dp.lora(dp.bert(), target_modules=["word_embeddings"]))


def test_merged_lora_is_refused(dp: SimpleNamespace) -> None:
    model = dp.bert_lora()
    model.merge_adapter()
    with pytest.raises(Refused, match=r"merged into its base layer\. Call unmerge_adapter"):
        check_allowed(model)


def only(model: nn.Module, *ends: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(ends)
    return model


def test_biases_and_norm_layers_of_the_body_are_allowed_and_named(dp: SimpleNamespace) -> None:
    ends = ("query.bias", "LayerNorm.weight", "LayerNorm.bias", "classifier.bias")
    kinds = {name.rpartition("layer.1.")[2]: kind for name, kind in check_allowed(only(dp.bert(), *ends)).items()}
    assert kinds["attention.self.query.bias"] is Kind.BIAS
    assert kinds["attention.output.LayerNorm.weight"] is kinds["attention.output.LayerNorm.bias"] is Kind.NORM
    assert kinds["classifier.bias"] is Kind.HEAD
    gpt2 = check_allowed(only(dp.gpt2(), "c_attn.bias", "ln_1.weight"))
    assert set(gpt2.values()) == {Kind.BIAS, Kind.NORM}


def test_the_norms_of_transformers_own_models_are_norms_and_nobody_elses(dp: SimpleNamespace) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    class HomeMadeRMSNorm(nn.RMSNorm):
        pass

    assert all(is_norm(norm) for norm in (nn.LayerNorm(4), nn.RMSNorm(4), LlamaRMSNorm(4)))
    assert not any(is_norm(other) for other in (HomeMadeRMSNorm(4), nn.Linear(4, 4), nn.GroupNorm(2, 4)))
    with pytest.raises(Refused, match="belongs to a HomeMadeRMSNorm"):
        check_allowed(nn.Sequential(HomeMadeRMSNorm(4)))


def test_a_weight_beside_the_biases_is_refused(dp: SimpleNamespace) -> None:
    with pytest.raises(Refused, match=r"layer\.0\.attention\.self\.query\.weight .*full fine-tuning .2 tensors"):
        check_allowed(only(dp.bert(), "query.weight", "query.bias"))


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        (("weight", "bias"), "full fine-tuning"),
        (("word_embeddings.weight",), "training embeddings"),
        (("pooler.dense.weight", "classifier.weight"), "full fine-tuning .1 tensors"),
    ],
)
def test_training_the_backbone_is_refused(dp: SimpleNamespace, ends: tuple[str, ...], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check_allowed(only(dp.bert(), *ends))


def test_a_bare_encoder_is_all_backbone(dp: SimpleNamespace) -> None:
    with pytest.raises(Refused, match="full fine-tuning"):
        check_allowed(only(dp.bert().bert, "pooler.dense.weight"))


def test_batch_norm_anywhere_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).requires_grad_(False), nn.Linear(4, 2))
    with pytest.raises(Refused, match=r"BatchNorm1d computes over the batch.*LayerNorm"):
        check_allowed(model)


def test_tied_parameters_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(Refused, match=r"0\.weight .*shared with another parameter"):
        check_allowed(model)


def test_a_view_of_a_frozen_tensor_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    with pytest.raises(Refused, match=r"1\.weight .*shared"):
        check_allowed(model)


def test_half_precision_is_refused() -> None:
    with pytest.raises(Refused, match=r"weight .*torch\.bfloat16"):
        check_allowed(nn.Linear(2, 2).to(torch.bfloat16))


def test_custom_modules_and_subclasses_of_linear_are_refused() -> None:
    class Scaled(nn.Linear):
        pass

    with pytest.raises(Refused, match="belongs to a Scaled"):
        check_allowed(nn.Sequential(Scaled(2, 2)))
    with pytest.raises(Refused, match="belongs to a Conv1d"):
        check_allowed(nn.Sequential(nn.Conv1d(2, 2, 1)))


def test_nothing_to_train_is_refused(dp: SimpleNamespace) -> None:
    with pytest.raises(Refused, match="no parameter requires a gradient"):
        check_allowed(dp.bert().requires_grad_(False))
