"""What trains on the frozen base: a PEFT adapter and the head, by the job's method.

LoRA (Hu et al., arXiv 2106.09685), with A fixed for FFA-LoRA (Sun et al., arXiv 2403.12313); the biases alone (BitFit,
Ben Zaken et al., arXiv 2106.10199); the norm layers alone (Zhao et al., arXiv 2312.11420); virtual tokens before the
text (prompt tuning, Lester et al., EMNLP 2021) or before every layer's keys and values (prefix tuning, Li and Liang,
ACL 2021); or the head alone.
"""

import inspect
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

from peft import (
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel

from privacy.dp.prompts import prompt_per_example
from privacy.errors import ConfigError

HEAD = ".modules_to_save."  # in the name of every parameter of a head that PEFT wraps
PROMPT = "prompt_embeddings"  # PEFT's name for the virtual tokens it saves


class Shape(Protocol):
    """The part of an adapter that decides its architecture: of a plan's adapter, and of a job file's."""

    @property
    def method(self) -> str:
        """ffa-lora, lora, bitfit, norm, prompt, prefix or head."""
        ...

    @property
    def rank(self) -> int:
        """LoRA's r."""
        ...

    @property
    def alpha(self) -> float:
        """LoRA's alpha: the update is scaled by alpha / r."""
        ...

    @property
    def rank_stabilised(self) -> bool:
        """Or by alpha / sqrt(r) (Kalajdzievski, arXiv 2312.03732)."""
        ...

    @property
    def target_modules(self) -> Sequence[str]:
        """Names (endings) of what the method adapts: linear layers, layers with a bias, or norm layers."""
        ...

    @property
    def virtual_tokens(self) -> int:
        """How many a prompt or prefix has."""
        ...

    @property
    def layers(self) -> Sequence[int]:
        """Which layers; all of them if empty."""
        ...

    @property
    def head(self) -> str:
        """`model`, `mean-pooled-normalised`, or `none` where the model's own output layer stays as it is."""
        ...


TASK_TYPES = {
    "sequence-classification": TaskType.SEQ_CLS,
    "token-classification": TaskType.TOKEN_CLS,
    "causal-language-modelling": TaskType.CAUSAL_LM,
}


def trained_modules(model: PreTrainedModel, shape: Shape) -> list[str]:
    """The modules that train and are saved whole: the head, unless it stays as it is."""
    return [] if shape.head == "none" else head_modules(model)


def head_modules(model: PreTrainedModel) -> list[str]:
    """The children outside the pretrained body that hold weights: what PEFT trains and saves beside the adapter."""
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and (*child.parameters(), *child.buffers())
    ]


def adapter_config(shape: Shape, heads: Sequence[str], task: str = "sequence-classification") -> PeftConfig:
    """PEFT's configuration of the adapter, saving the modules `heads` whole; a head alone adapts nothing.

    PEFT has no BitFit: it is an adapter of nothing that saves every bias.
    """
    match shape.method:
        case "norm":
            return LNTuningConfig(target_modules=sorted(shape.target_modules), modules_to_save=list(heads))
        case "prompt" | "prefix":
            kind = PromptTuningConfig if shape.method == "prompt" else PrefixTuningConfig
            return kind(
                task_type=TASK_TYPES[task], num_virtual_tokens=shape.virtual_tokens, modules_to_save=list(heads)
            )
        case "lora" | "ffa-lora":
            return LoraConfig(
                r=shape.rank,
                lora_alpha=cast("int", shape.alpha),
                lora_dropout=0.0,
                use_rslora=shape.rank_stabilised,
                target_modules=sorted(shape.target_modules),
                layers_to_transform=sorted(shape.layers) or None,
                modules_to_save=list(heads),
            )
    return LoraConfig(
        r=1,
        lora_alpha=1,
        lora_dropout=0.0,
        target_modules=DUMMY_TARGET_MODULES,
        bias="all" if shape.method == "bitfit" else "none",
        modules_to_save=list(heads),
    )


def adapt(base: PreTrainedModel, shape: Shape, task: str = "sequence-classification") -> PeftModel:
    """Put the adapter on a base: only what the method trains, and the head, requires a gradient afterwards.

    Raises ConfigError when `target_modules` or `layers` name nothing in the model.
    """
    _check_virtual_tokens(base, shape, task)
    config = adapter_config(shape, trained_modules(base, shape), task)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks by the old name
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # PEFT's, of its own norm layers
            model = cast("PeftModel", get_peft_model(base, config))
    except ValueError as error:
        if shape.virtual_tokens:
            why = f"PEFT cannot put virtual tokens on it ({error})"
            raise ConfigError("model", why, 'Use head = "mean-pooled-normalised".') from error
        raise _nothing(shape) from error
    except StopIteration as error:  # how PEFT fails on a norm that is an nn.Identity, such as ModernBERT's first
        names = ", ".join(shape.target_modules)
        why = f"target_modules {names} name a layer that has no weights"
        raise ConfigError("model", why, "Name layers that have some.") from error
    if shape.method == "prompt":
        prompt_per_example(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = parameter.requires_grad and _trains(name, shape)
    if shape.method != "head" and not any(HEAD not in name for name in _trained(model)):
        raise _nothing(shape)
    return model


def _check_virtual_tokens(base: PreTrainedModel, shape: Shape, task: str) -> None:
    """Raises ConfigError where the model would take no notice of them, or of the text's end beside them."""
    if shape.method == "prompt" and task == "sequence-classification" and "score" in head_modules(base):
        why = "finds the end of a text by its token ids, which prompt tuning hides from it"
        raise ConfigError("model", why, 'Use method = "prefix", or head = "mean-pooled-normalised".')
    body = base.get_submodule(base.base_model_prefix)
    if shape.method == "prefix" and "past_key_values" not in inspect.signature(body.forward).parameters:
        why = f"is a {type(body).__name__}, which takes no past keys and values: a prefix would do nothing"
        raise ConfigError("model", why, 'Use method = "prompt" or "ffa-lora".')


def _trains(parameter: str, shape: Shape) -> bool:
    """Whether the method trains a parameter that PEFT would, by its name in the PEFT model."""
    if HEAD in parameter:
        return True
    match shape.method:
        case "ffa-lora":
            return ".lora_A." not in parameter
        case "bitfit":
            module = parameter.rpartition(".")[0]
            return _in_layers(parameter, shape.layers) and any(
                f".{module}".endswith(f".{t}") for t in shape.target_modules
            )
        case "norm":
            return _in_layers(parameter, shape.layers)
    return True


def _in_layers(parameter: str, layers: Sequence[int]) -> bool:
    """Whether a parameter is in one of the numbered layers; any will do if none are given."""
    number = re.search(r"\.(\d+)\.", parameter)
    return not layers or (number is not None and int(number[1]) in layers)


def _nothing(shape: Shape) -> ConfigError:
    why = f"target_modules {', '.join(shape.target_modules)} and layers {list(shape.layers)} match nothing in it"
    ways = {
        "bitfit": "Name its layers with a bias, for instance query, value and dense for BERT.",
        "norm": "Name its norm layers, for instance LayerNorm for BERT.",
    }
    return ConfigError(
        "model", why, ways.get(shape.method, "Name its linear layers, for instance query and value for BERT.")
    )


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def saved_name(parameter: str) -> str:
    """A parameter's name in PEFT's state dictionary: without the adapter's own name and wrappers."""
    if parameter == "prompt_encoder.default.embedding.weight":
        return PROMPT
    return parameter.replace(f"{HEAD}default.", ".").replace(".default.", ".")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, by the name that the plan gives it."""
    return {saved_name(name): parameter for name, parameter in _trained(model).items()}


def trained_heads(model: nn.Module) -> set[str]:
    """Of what trains, the names of what stands outside the pretrained body."""
    return {saved_name(name) for name in _trained(model) if HEAD in name}


def saved_heads(saved: Iterable[str]) -> set[str]:
    """The head's modules, from the names in PEFT's state dictionary alone: what is no adapter's, and no bias.

    A head has weights, so its name is found though its own biases are passed over.
    """
    of_adapter = re.compile(rf"\.lora_[AB]\.|\.ln_tuning_layers\.|\.bias$|^{PROMPT}$")
    heads = (name for name in saved if not of_adapter.search(name))
    return {re.sub(r"^base_model\.(model\.)?", "", name).split(".")[0] for name in heads}
