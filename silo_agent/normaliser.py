"""Made-up sentences, and the centre and deviation of their features: the head's fixed normaliser.

No record is read. Sentences come from a file, or from a template whose columns take random values within public
ranges (what a text book says a blood pressure can be).
"""

from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from privacy.errors import CloisterError, ConfigError
from privacy.fields import Strict, Text
from silo_agent.modeling import MeanPooledClassifier
from silo_agent.models import Tokenizer
from silo_agent.template import as_text, parse_template

LEAST_SENTENCES = 50
LEAST_DEVIATION = 1e-4  # a feature that hardly moves would otherwise be blown up
BATCH = 32
MOST_STEPS = 10**15  # from low to high, in the last decimal: as many as a float tells apart


class Range(Strict):
    """What a column can be: one of `values`, or a number from `low` to `high` with so many decimals."""

    values: tuple[Text, ...] = Field(default=(), strict=False)
    low: Annotated[float, Field(strict=False, allow_inf_nan=False)] | None = None
    high: Annotated[float, Field(strict=False, allow_inf_nan=False)] | None = None
    decimals: Annotated[int, Field(ge=0, le=6)] = 0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        numbers = self.low is not None and self.high is not None
        if numbers == bool(self.values) or (self.low is None) != (self.high is None):
            raise ValueError("a column takes either values, or low and high")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high")
        if self.low is not None and self.high is not None and self.high - self.low > MOST_STEPS / 10**self.decimals:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}: with {self.decimals} decimals they may be at most "
                f"{MOST_STEPS / 10**self.decimals:g} apart"
            )
        return self

    def draw(self, bits: np.random.Generator) -> str:
        """One random value, as it is written in a sentence."""
        if self.values:
            return self.values[int(bits.integers(len(self.values)))]
        low, high = float(self.low or 0), float(self.high or 0)
        step = 10.0**-self.decimals
        return as_text(round(low + step * int(bits.integers(round((high - low) / step) + 1)), self.decimals))


class Normaliser(Strict):
    """Where made-up sentences come from: one line each of a file, or a template and the ranges of its columns."""

    sentences: Text | None = None
    template: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    columns: dict[str, Range] = Field(default_factory=dict)
    count: Annotated[int, Field(ge=LEAST_SENTENCES, le=10_000)] = 300
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.sentences is None) == (self.template is None):
            raise ValueError("normaliser takes either sentences (a file) or template (with columns)")
        if self.template is not None:
            try:
                named = set(parse_template(self.template).columns)
            except CloisterError as error:
                raise ValueError(error.why) from error
            if wrong := sorted(named ^ self.columns.keys()):
                raise ValueError(f"normaliser.columns and the template disagree about {wrong[0]!r}")
        return self

    def made_up(self, folder: Path) -> list[str]:
        """The sentences; the same for the same seed. Raises ConfigError if the file is absent or has too few lines."""
        if self.template is not None:
            template, bits = parse_template(self.template), np.random.default_rng(self.seed)
            return [
                template.fill({name: self.columns[name].draw(bits) for name in template.columns})
                for _ in range(self.count)
            ]
        path = folder / (self.sentences or "")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            why = f"{path.name} does not read as text ({type(error).__name__})"
            raise ConfigError("normaliser.sentences", why, "Correct the path.") from error
        if len(lines) < LEAST_SENTENCES:
            why = f"{path.name} has fewer than {LEAST_SENTENCES} sentences"
            raise ConfigError("normaliser.sentences", why, "Add made-up or public sentences.")
        return lines


def feature_moments(
    model: MeanPooledClassifier, tokenize: Tokenizer, sentences: list[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of the pooled features of `sentences`, float32 [H] each."""
    model.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        starts = range(0, len(sentences), BATCH)
        rows = [model.pooled(**tokenize(sentences[start : start + BATCH])) for start in starts]
    features = torch.cat(rows).double()
    deviation = features.std(dim=0).clamp(min=LEAST_DEVIATION)
    return features.mean(dim=0).float().numpy(), deviation.float().numpy()
