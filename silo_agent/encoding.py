"""From records to what a model takes and what it is held against: token ids, and labels of texts, words or tokens.

Every record is padded to the plan's limit and not to the longest of its part, so that the shape of what one record is
computed in (and with it float32's rounding) does not tell of another record's length.
"""

from pathlib import Path

import numpy as np
import torch

from privacy.dp.engine import UNLABELLED
from privacy.errors import ConfigError
from privacy.tasks import LanguageModelling, TokenClassification, TrainedTask
from silo_agent.datasets import Part
from silo_agent.models import Tokenizer, Tokens

Encoded = tuple[Tokens, torch.Tensor]


class Encoder:
    """Encodes the parts of a dataset for one task. Raises ConfigError if the model's tokenizer is none for it."""

    def __init__(self, task: TrainedTask, folder: Path) -> None:
        self._task = task
        self._tokenizer = Tokenizer(folder, task.max_tokens, whole=True, words=isinstance(task, TokenClassification))

    def __call__(self, part: Part, classes: tuple[str, ...]) -> Encoded:
        """`input_ids` and `attention_mask`, int64 [records, max_tokens]; labels int64 [records], of texts, or [records,
        max_tokens], of tokens. `classes` are what the part's labels count through, in the dataset's order.
        """
        order = np.array([self._task.labels.index(name) for name in classes], dtype=np.int64)
        match self._task:
            case TokenClassification():
                return self._words(part, order)
            case LanguageModelling():
                return self._responses(part)
        return self._tokenizer(part.texts), torch.from_numpy(order[part.labels])

    def _words(self, part: Part, order: np.ndarray) -> Encoded:
        """A word's class is that of its first token; its others, and padding, have none."""
        tokens, words = self._tokenizer.of_words([text.split() for text in part.texts])
        labels = torch.full_like(tokens["input_ids"], UNLABELLED)
        for i, tags in enumerate(part.tags):
            before = None
            for position, word in enumerate(words[i]):
                if word is not None and word != before:
                    labels[i, position] = int(order[tags[word]])
                before = word
        return tokens, labels

    def _responses(self, part: Part) -> Encoded:
        """At each position the next token, where that is of the response. A prompt too long loses its beginning, a
        response too long its end.
        """
        limit = self._task.max_tokens
        ids = torch.full((len(part.texts), limit), self._tokenizer.padding, dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, UNLABELLED)
        for i, (text, answer) in enumerate(zip(part.texts, part.responses, strict=True)):
            response = self._tokenizer.of_response(answer)[: limit - 1]
            prompt = self._tokenizer.of_prompt(text)
            if not prompt:
                raise ConfigError("dataset", "a prompt has no token", "Write the task into its template.")
            prompt = prompt[-(limit - len(response)) :]
            both = torch.tensor(prompt + response)
            ids[i, : len(both)], mask[i, : len(both)] = both, 1
            labels[i, len(prompt) - 1 : len(both) - 1] = both[len(prompt) :]
        return {"input_ids": ids, "attention_mask": mask}, labels


def made_up(task: TrainedTask) -> Part:
    """Eight records of no person, for the self-test; nearly all of one class.

    Gradients of balanced classes cancel, and a sum near zero compares badly.
    """
    texts = tuple(f"made-up record {i}: value {7 * i} of {'abcdefgh'[i]}, {'yes' if i % 3 else 'no'}" for i in range(8))
    classes = [i // 2 % len(task.labels) if i % 2 and task.labels else 0 for i in range(len(texts))]
    tags = tuple(tuple(classes[i] for _ in text.split()) for i, text in enumerate(texts))
    responses = tuple(f"it is {'ab'[i % 2]} with {3 * i}" for i in range(len(texts)))
    return Part(texts, np.array(classes, np.int64), np.arange(len(texts), dtype=np.int64), tags, responses)
