"""Tiny models with random weights, their adapters, and made-up records, for the tests of privacy.dp."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from privacy.mechanism import DpSgd

TOKENS, WORDS = 7, 50


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    return BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(1)
    config = GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


def lora(base: nn.Module, **options: object) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    chosen: dict[str, object] = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query", "value"], **options}
    return get_peft_model(base, LoraConfig(**chosen))


def bert_lora() -> nn.Module:
    return lora(bert(), lora_dropout=0.3)


def bert_ffa_lora() -> nn.Module:
    model = bert_lora()
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad = False
    return model


def gpt2_lora() -> nn.Module:
    return lora(gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)


def bert_rslora() -> nn.Module:
    return lora(bert(), r=4, use_rslora=True)


def bert_head() -> nn.Module:
    model = bert()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("classifier")
    return model


def only(model: nn.Module, *ends: str) -> nn.Module:
    """The model, training what is so named and its head."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(ends) or name.startswith(("classifier", "score"))
    return model


def bert_bitfit() -> nn.Module:
    return only(bert(), "query.bias", "value.bias", "dense.bias")


def gpt2_bitfit() -> nn.Module:
    return only(gpt2(), ".bias")


def bert_norm() -> nn.Module:
    return only(bert(), "LayerNorm.weight", "LayerNorm.bias")


def llama_norm() -> nn.Module:
    """Its RMSNorm is transformers' own, and Opacus has no rule for it."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=3, pad_token_id=0,
    )  # fmt: skip
    return only(LlamaForSequenceClassification(config), "norm.weight")


def bert_prompt() -> nn.Module:
    from peft import PromptTuningConfig, get_peft_model

    from privacy.dp.prompts import prompt_per_example

    torch.manual_seed(2)
    model = get_peft_model(bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))
    prompt_per_example(model)
    return model


def gpt2_prefix() -> nn.Module:
    from peft import PrefixTuningConfig, get_peft_model

    torch.manual_seed(2)
    return get_peft_model(gpt2(), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))


def synthetic(examples: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    bits = torch.Generator().manual_seed(3)
    ids = torch.randint(1, WORDS, (examples, TOKENS), generator=bits)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(examples) % 3


class Records:
    """Made-up records, one per unit; remembers the sizes of the batches it was asked for."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.asked: list[int] = []
        self._inputs, self._labels = synthetic(units)

    def batch(self, units: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        self.asked.append(len(units))
        rows = torch.from_numpy(units)
        return {name: tensor[rows] for name, tensor in self._inputs.items()}, self._labels[rows]


def mechanism(**changes: object) -> DpSgd:
    usual: dict[str, object] = {
        "clip_l2": 0.5,
        "noise_multiplier": 1.0,
        "sampling_rate": 0.5,
        "steps_per_round": 3,
        "expected_batch_size": 8.0,
        "unit": "record",
        "delta": 1e-3,
    }
    return DpSgd.model_validate(usual | changes)


def rates(model: nn.Module, rate: float = 0.1) -> dict[str, float]:
    return {name: rate for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def dp() -> SimpleNamespace:
    """The builders above, by name."""
    return SimpleNamespace(
        bert=bert, gpt2=gpt2, lora=lora, bert_lora=bert_lora, bert_ffa_lora=bert_ffa_lora, gpt2_lora=gpt2_lora,
        bert_prompt=bert_prompt, gpt2_prefix=gpt2_prefix,
        bert_head=bert_head, synthetic=synthetic, Records=Records, mechanism=mechanism, rates=rates, trained=trained,
    )  # fmt: skip


ALLOWED = [bert_lora, bert_ffa_lora, bert_rslora, gpt2_lora, bert_bitfit, gpt2_bitfit, bert_norm, llama_norm, bert_head]
BY_HOOKS_ALONE = [bert_prompt, gpt2_prefix]
PAIRS = [(build, clipping) for build in ALLOWED for clipping in ("ghost", "hooks")]
PAIRS += [(build, "hooks") for build in BY_HOOKS_ALONE]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1]}")
def allowed(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    """Every kind of model on the allow-list, with every way of clipping that is right for it."""
    build, clipping = request.param
    return build(), clipping
