"""Our sequence classifier: a frozen encoder, mean pooling, a fixed affine normaliser, a linear head.

An ordinary `PreTrainedModel`, so that PEFT adapts it and `PeftModel.from_pretrained` loads an exported adapter on it:

    encoder = "sentence-transformers/all-MiniLM-L6-v2"
    base = MeanPooledClassifier.from_encoder(encoder, labels=["absent", "present"])
    model = PeftModel.from_pretrained(base, "exported-adapter")
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

Tensor = torch.Tensor
# What PEFT asks a model's configuration for, to shape virtual tokens.
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


class MeanPooledConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The configuration of the encoder inside, as a dictionary with its `model_type`, and the labels."""

    model_type = "cloister-mean-pooled"

    def __init__(self, encoder: dict[str, Any] | None = None, **rest: Any) -> None:  # noqa: ANN401 - transformers' own
        super().__init__(**rest)
        self.encoder = encoder or {}


class Normaliser(nn.Module):
    """(x - center) / deviation, then unit norm: features of public or made-up text become round and of length one.

    Fixed for the whole job and pinned in the plan. Identity up to the unit norm until values are loaded. That a
    feature has length one bounds what one record does to the head's gradient, before clipping, by sqrt(2) times |p-y|.
    """

    center: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def forward(self, features: Tensor) -> Tensor:
        """[B, H] to [B, H], every row of unit norm."""
        return nn.functional.normalize((features - self.center) / self.deviation, dim=-1)


class MeanPooledClassifier(PreTrainedModel):  # type: ignore[no-untyped-call]
    """logits = head(normaliser(mean over the tokens of the encoder's last hidden state)).

    The head starts at zero and has no bias: beside features of unit norm a bias would take half of every clipped
    gradient, and the offset it could learn is in the features, which real text does not leave centred.
    """

    config_class = MeanPooledConfig
    base_model_prefix = "encoder"

    def __init__(self, config: MeanPooledConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        settings = dict(config.encoder)
        if encoder is None:
            inner = AutoConfig.for_model(settings.pop("model_type"), **settings)
            encoder = cast("PreTrainedModel", AutoModel.from_config(inner))  # type: ignore[no-untyped-call]
        self.encoder = encoder
        width = self.encoder.config.hidden_size
        self.normaliser = Normaliser(width)
        self.classifier = nn.Linear(width, len(config.id2label or {}), bias=False)
        self.post_init()  # type: ignore[no-untyped-call]
        nn.init.zeros_(self.classifier.weight)

    @classmethod
    def from_encoder(cls, source: str, labels: Sequence[str], **options: Any) -> "MeanPooledClassifier":  # noqa: ANN401
        """Load the encoder at `source` (folder or hub id) and put a zero head for `labels` on it.

        `options` go to `AutoModel.from_pretrained`. Raises whatever that raises.
        """
        encoder = cast("PreTrainedModel", AutoModel.from_pretrained(source, **options))
        names = dict(enumerate(labels))
        sizes = {name: getattr(encoder.config, name) for name in SIZES if hasattr(encoder.config, name)}
        config = MeanPooledConfig(
            encoder=encoder.config.to_dict(), id2label=names, label2id={name: i for i, name in names.items()}, **sizes
        )
        return cls(config, encoder)

    def pooled(self, input_ids: Tensor | None, attention_mask: Tensor, **virtual: Any) -> Tensor:  # noqa: ANN401 - see forward
        """The mean of the last hidden state over the tokens that are not padding: [B, T] to [B, H].

        Virtual tokens of a prompt count; those of a prefix have no hidden state, only a place in the mask.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **virtual).last_hidden_state
        weight = attention_mask[:, -hidden.shape[1] :].unsqueeze(-1).to(hidden.dtype)
        return cast("Tensor", (hidden * weight).sum(1) / weight.sum(1))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,  # noqa: ANN401 - a cache of whatever class PEFT makes of a prefix
        **ignored: Any,  # noqa: ANN401 - what tokenizers add (token_type_ids) and PEFT passes on
    ) -> SequenceClassifierOutput:
        """Logits [B, labels] of token ids, or of embeddings with a prompt before them; a prefix comes as
        `past_key_values`. The mean cross-entropy too where `labels` [B] are given.
        """
        del ignored
        if attention_mask is None:
            raise ValueError("attention_mask is needed: the mean is over the tokens that are not padding")
        virtual = {"inputs_embeds": inputs_embeds, "past_key_values": past_key_values}
        virtual = {name: value for name, value in virtual.items() if value is not None}
        logits = self.classifier(self.normaliser(self.pooled(input_ids, attention_mask, **virtual)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
