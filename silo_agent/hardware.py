"""Where a silo's training runs, and in what precision the frozen layers that are run once multiply."""

from dataclasses import dataclass

import torch

from privacy.errors import ConfigError
from silo_agent.settings import Device, Frozen, TrainingSettings


@dataclass(frozen=True)
class Hardware:
    """A device, and the type that frozen layers multiply in where their activations are cached.

    All that trains, and every layer that a gradient passes, is float32 on any device: preflight compares an example
    alone with the same one in a batch to 1e-4, which bfloat16's rounding would hide a leak behind.
    """

    device: torch.device
    frozen: torch.dtype

    @property
    def half(self) -> bool:
        """Whether frozen layers multiply in bfloat16."""
        return self.frozen is torch.bfloat16


CPU = Hardware(torch.device("cpu"), torch.float32)


def hardware_of(settings: TrainingSettings) -> Hardware:
    """What a silo's settings mean on this machine. Raises what `chosen` raises."""
    return chosen(settings.device, settings.frozen)


def chosen(device: Device, frozen: Frozen) -> Hardware:
    """What silo.toml's `training.device` and `training.frozen` mean on this machine.

    `auto` is the GPU where torch finds one, and bfloat16 on a GPU that has it in hardware; a CPU's `auto` is float32,
    since few have it and the others are slower by it. Raises ConfigError when a GPU is asked for that torch cannot use.
    """
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        why = 'is "cuda", and torch finds no GPU that it can use'
        raise ConfigError("training.device in silo.toml", why, 'Install its driver and a CUDA build, or say "cpu".')
    place = torch.device("cuda" if gpu and device != "cpu" else "cpu")
    native = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    half = frozen == "bfloat16" or (frozen == "auto" and native)
    return Hardware(place, torch.bfloat16 if half else torch.float32)
