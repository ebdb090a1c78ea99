"""Prompt tuning with a gradient for each example (Lester et al., EMNLP 2021, under DP-SGD).

PEFT looks its prompt up once per batch and repeats the result, so that the prompt's embedding never sees an example:
Opacus then keeps one gradient where there should be a batch of them, and what is clipped is not what one record did.
Here the lookup itself runs once per example. The values are the same, and an adapter trained so is PEFT's own.
"""

from typing import cast

import torch
from peft import PeftModel, PromptEmbedding
from torch import nn


class PromptPerExample:
    """Stands for `PeftModel.get_prompt` of the model it is made for."""

    def __init__(self, model: PeftModel) -> None:
        self._model = model

    def __call__(self, batch_size: int, *_: object, **__: object) -> torch.Tensor:
        """The active adapter's prompt for each example: [batch, virtual tokens, hidden]."""
        encoder = cast("PromptEmbedding", self._model.prompt_encoder[self._model.active_adapter])
        tokens: torch.Tensor = self._model.prompt_tokens[self._model.active_adapter]
        prompt: torch.Tensor = encoder(tokens.to(encoder.embedding.weight.device).expand(batch_size, -1))
        return prompt

    def serves(self, model: nn.Module) -> bool:
        """Whether it is of this model: a copy of a model would keep the original's."""
        return self._model is model


def prompt_per_example(model: PeftModel) -> None:
    """Have a model with PEFT's prompt tuning look its prompt up once per example."""
    vars(model)["get_prompt"] = PromptPerExample(model)


def is_per_example(model: nn.Module) -> bool:
    """Whether `prompt_per_example` was applied to this very model."""
    own = vars(model).get("get_prompt")
    return type(own) is PromptPerExample and own.serves(model)
