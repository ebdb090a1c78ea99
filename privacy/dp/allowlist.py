"""What may train under DP-SGD. All else is refused, with the reason and the nearest thing that is allowed.

The list is short because Opacus is silently wrong where a parameter does not see one row per example: prompt tuning
runs and its clipped sum is 69-74 % off (docs/explanation/dp-training.md). Every entry here was compared with
one-by-one gradients; the preflight compares again with the model at hand.
"""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from torch import nn

from privacy.dp.prompts import is_per_example
from privacy.errors import Refused

NEAREST = "Train FFA-LoRA, LoRA, biases, norm layers, a prompt, a prefix or a linear head by a job's method"


class Kind(StrEnum):
    """Why a parameter may train."""

    LORA_A = "lora-a"
    LORA_B = "lora-b"
    BIAS = "bias"
    NORM = "norm"
    PROMPT = "prompt"
    HEAD = "head"


# Reasons by peft.PeftType; a method that is not named here is refused as unproven.
METHODS = {
    "PROMPT_TUNING": "its embedding runs once per batch, so per-example gradients do not exist and clipping is wrong",
    "P_TUNING": "its prompt encoder runs once per batch, so per-example gradients do not exist and clipping is wrong",
    "MULTITASK_PROMPT_TUNING": "its prompt runs once per batch, so per-example gradients do not exist",
    "IA3": "its scaling vectors have no per-example gradients",
    "VERA": "its scaling vectors have no per-example gradients",
}

ALLOWED_METHODS = {"LORA", "LN_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"}

BATCH_COUPLED = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)  # noqa: SLF001 - the public classes' only common base


def check_allowed(model: nn.Module) -> dict[str, Kind]:
    """Why each trainable parameter of `model` may train, by its name in `model.named_parameters()`.

    Raises Refused, naming the module or parameter, when nothing trains, a module couples examples, a trainable tensor
    is shared or is not float32 or float64, the PEFT method is not on the list, or a parameter belongs to anything but
    LoRA on a Linear or Conv1D layer, their biases, a norm layer, a prompt or prefix that is looked up once per
    example, or a linear head outside the pretrained backbone.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise _refused("model", "no parameter requires a gradient")
    _check_batch_coupling(model)
    _check_methods(model)
    _check_sharing(model)
    for name, parameter in trainable.items():
        if str(parameter.dtype) not in {"torch.float32", "torch.float64"}:
            raise _refused(name, f"trains in {parameter.dtype}, where clipping is off by about a percent")
    adapter = _lora_kinds(model) | _prompt_kinds(model)
    bodies = _backbones(model)
    others = {name: owner_of(model, name) for name in trainable if name not in adapter}
    inside = {name for name in others if any(not body or name.startswith(f"{body}.") for body in bodies)}
    kinds = {name: _kind_of(name, owner, in_body=name in inside) for name, owner in others.items()}
    unknown = {name: others[name] for name, kind in kinds.items() if kind is None}
    if unknown:
        raise _unproven(unknown, inside)
    found = adapter | {name: kind for name, kind in kinds.items() if kind is not None}
    return {name: found[name] for name in trainable}


def _kind_of(name: str, owner: nn.Module, *, in_body: bool) -> Kind | None:
    """Why a parameter that is not LoRA's may train, inside the pretrained body or outside of it; None: it may not."""
    if is_norm(owner):
        return Kind.NORM
    if in_body:
        return Kind.BIAS if name.endswith(".bias") and (type(owner) is nn.Linear or _is_conv1d(owner)) else None
    return Kind.HEAD if type(owner) is nn.Linear else None


def _unproven(unknown: dict[str, nn.Module], inside: set[str]) -> Refused:
    """The refusal of parameters that are not on the list; it names what training them looks like."""
    first, owner = next(iter(unknown.items()))
    if first not in inside:
        return _refused(first, f"it belongs to a {type(owner).__name__}, which is not on the allow-list")
    if all(isinstance(each, nn.Embedding) for each in unknown.values()):
        return _refused(first, "training embeddings is not on the allow-list")
    return _refused(first, f"full fine-tuning ({len(unknown)} tensors of the backbone) is not on the allow-list")


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm over one token's own features: torch's LayerNorm or RMSNorm, or transformers' own RMSNorm.

    The last is known by its name: every model family of transformers has a class of its own.
    """
    kind = type(module)
    own = kind.__module__.startswith("transformers.models.") and kind.__name__.endswith("RMSNorm")
    return kind in {nn.LayerNorm, nn.RMSNorm} or own


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer."""
    from transformers.pytorch_utils import Conv1D

    return type(module) is Conv1D


def owner_of(model: nn.Module, parameter: str) -> nn.Module:
    """The module that holds the named parameter itself."""
    return model.get_submodule(parameter.rpartition(".")[0])


def _refused(what: str, why: str, nearest: str = NEAREST) -> Refused:
    return Refused(f"{what} cannot train under differential privacy", why, f"{nearest}.")


def _check_batch_coupling(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, BATCH_COUPLED):
            why = f"{type(module).__name__} computes over the batch, so one example changes the gradients of others"
            raise _refused(name or "model", why, "Use a model with LayerNorm, RMSNorm or GroupNorm")


def _check_methods(model: nn.Module) -> None:
    """PEFT methods by their declared type, on every PEFT model inside."""
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        if not isinstance(configs, dict):
            continue
        for config in configs.values():
            method = str(getattr(config.peft_type, "value", config.peft_type))
            per_example = method != "PROMPT_TUNING" or is_per_example(module)
            if method not in ALLOWED_METHODS or not per_example:
                why = METHODS.get(method, "its per-example gradients have not been shown to be right")
                raise _refused(f"PEFT method {method}", why)


def _check_sharing(model: nn.Module) -> None:
    """Each trainable tensor has one name and its own storage."""
    every = list(model.named_parameters(remove_duplicate=False))
    uses = Counter(parameter.untyped_storage().data_ptr() for _, parameter in every if parameter.numel())
    for name, parameter in every:
        if parameter.requires_grad and parameter.numel() and uses[parameter.untyped_storage().data_ptr()] > 1:
            raise _refused(name, "its tensor is shared with another parameter, so it would be clipped twice over")


def _lora_kinds(model: nn.Module) -> dict[str, Kind]:
    """The trainable LoRA weights. Refuses LoRA layers whose arithmetic is not x A^T B^T on a Linear or Conv1D."""
    from peft.tuners.lora.layer import LoraLayer

    kinds: dict[str, Kind] = {}
    layers = [(name, module) for name, module in model.named_modules() if issubclass(type(module), LoraLayer)]
    for name, module in layers:
        if not any(p.requires_grad for p in module.parameters()):
            continue
        _check_lora_layer(name, module)
        for part, kind in (("lora_A", Kind.LORA_A), ("lora_B", Kind.LORA_B)):
            for inner, owner in module.get_submodule(part).named_modules():
                if type(owner) is nn.Linear:
                    prefix = f"{name}.{part}.{inner}" if name else f"{part}.{inner}"
                    kinds |= {f"{prefix}.{leaf}": kind for leaf, p in owner.named_parameters() if p.requires_grad}
    return kinds


def _prompt_kinds(model: nn.Module) -> dict[str, Kind]:
    """The trainable virtual tokens of prompt and prefix tuning; not what projects them, which no method here has."""
    from peft import PrefixEncoder, PromptEmbedding

    return {
        f"{name}.embedding.weight" if name else "embedding.weight": Kind.PROMPT
        for name, module in model.named_modules()
        if type(module) in {PrefixEncoder, PromptEmbedding} and not getattr(module, "prefix_projection", False)
    }


def _check_lora_layer(name: str, layer: nn.Module) -> None:
    from peft.tuners.lora.layer import Linear
    from transformers.pytorch_utils import Conv1D

    base = layer.base_layer
    if type(base) not in {nn.Linear, Conv1D} or type(layer) is not Linear:
        raise _refused(f"LoRA on {name}", f"its target is a {type(base).__name__}, not a Linear or Conv1D layer")
    if len(layer.lora_magnitude_vector):
        raise _refused(f"DoRA on {name}", "its magnitude vector has no per-example gradients")
    if layer.lora_variant:
        variant = type(next(iter(layer.lora_variant.values()))).__name__
        raise _refused(f"LoRA on {name}", f"its variant {variant} has not been shown to have right gradients")
    if layer.merged_adapters:
        raise _refused(f"LoRA on {name}", "it is merged into its base layer", "Call unmerge_adapter() first")


def _backbones(model: nn.Module) -> set[str]:
    """Names of the pretrained bodies: every PreTrainedModel that is its own base and holds no other."""
    from transformers import PreTrainedModel

    pretrained = {name: module for name, module in model.named_modules() if isinstance(module, PreTrainedModel)}
    return {
        name
        for name, module in pretrained.items()
        if module.base_model is module and not any(other is not module for other in _pretrained_inside(module))
    }


def _pretrained_inside(module: nn.Module) -> Iterator[nn.Module]:
    from transformers import PreTrainedModel

    return (inner for inner in module.modules() if isinstance(inner, PreTrainedModel))
