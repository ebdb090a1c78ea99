"""What a steward says about one dataset: the file, how a record becomes a sentence and a label, what is held out."""

import secrets
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from privacy.errors import CloisterError
from privacy.fields import Name, Strict, Text
from silo_agent.template import as_text, parse_template

Column = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(max_length=1000)]
SEED_BITS = 128
TaskKind = Literal["sequence-classification", "token-classification", "causal-language-modelling"]


class Label(Strict):
    """The label column and the classes: a list of values, or a table from class name to the values it gathers."""

    column: Column
    classes: dict[Text, tuple[Text, ...]]
    missing: Literal["refuse", "drop"] = "refuse"

    @field_validator("classes", mode="before")
    @classmethod
    def _gathered(cls, value: object) -> object:
        """A list of classes is a table in which each class gathers itself; numbers may be written as numbers."""
        if isinstance(value, list | tuple):
            names = [as_text(item) for item in value]
            if len(set(names)) != len(names):
                raise ValueError("a class is listed twice")
            return {name: (name,) for name in names}
        if isinstance(value, dict):
            return {name: _as_values(values) for name, values in value.items()}
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(self.classes) < 2:
            raise ValueError("label.classes needs at least two classes")
        values = [value for gathered in self.classes.values() for value in gathered]
        if len(set(values)) != len(values):
            raise ValueError("label.classes gives one value to two classes")
        return self


def _as_values(values: object) -> tuple[str, ...]:
    single = isinstance(values, str | int | float)
    listed = [values] if single else list(values) if isinstance(values, list | tuple) else []
    if not listed:
        raise ValueError("each class needs a list of the values it gathers")
    return tuple(as_text(value) for value in listed)


class HeldOut(Strict):
    """The local held-out part, never trained on and never sent: a random fraction, a marked part, or another file.

    A fraction needs a seed before it is used; `DatasetSpec.with_seed` draws one where the file gives none.
    """

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None  # private: who knows it can tell on which side a record would be
    column: Column | None = None
    value: Text | None = None
    path: Text | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [self.fraction is not None, self.column is not None, self.path is not None]
        if sum(ways) != 1:
            raise ValueError("held_out takes exactly one of fraction, column (with value) and path")
        if (self.column is None) != (self.value is None):
            raise ValueError("held_out.column and held_out.value go together")
        if self.seed is not None and self.fraction is None:
            raise ValueError("held_out.seed goes with held_out.fraction")
        return self


class DatasetSpec(Strict):
    """One dataset of one institution (docs/how-to/prepare-a-dataset.md). Paths are relative to its own file."""

    name: Name
    population: Name  # whose privacy budget it spends: datasets about overlapping patients share one
    # How many records (or patients) to train on it is said to have at least: all that a job can find out of its size.
    public_size: Annotated[int, Field(ge=1)]
    path: Text
    format: Literal["csv", "jsonl", "parquet"]
    columns: tuple[Column, ...] = Field(default=(), strict=False)  # names for a CSV file without a header line
    missing: tuple[Words, ...] = Field(default=(), strict=False)  # further marks of a missing value, for instance "?"
    missing_text: dict[Column, Words] = Field(default_factory=dict)  # said instead; other records with gaps are dropped
    text_column: Column | None = None
    template: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    values: dict[Column, dict[str, Words]] = Field(default_factory=dict)  # per column: what a value reads as
    # What a record is held against: one of these three, by the task it is for.
    label: Label | None = None  # sequence classification: a class of the text
    tags: Label | None = None  # token classification: a class of each word; list columns, or words between spaces
    response_column: Column | None = None  # language modelling: what shall follow the text
    patient_column: Column | None = None
    # What is known to be odd and right: columns with one value throughout, and a patient with most of the records.
    constant_columns: tuple[Column, ...] = Field(default=(), strict=False)
    one_patient_may_dominate: bool = False
    held_out: HeldOut

    @field_validator("template")
    @classmethod
    def _parses(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_template(value)
            except CloisterError as error:
                raise ValueError(error.why) from error
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.text_column is None) == (self.template is None):
            raise ValueError("give either text_column or template")
        if sum(way is not None for way in (self.label, self.tags, self.response_column)) != 1:
            raise ValueError("give one of label, tags and response_column: it says which task the dataset is for")
        if self.tags is not None and self.text_column is None:
            raise ValueError("tags go with text_column: a template's own words have none")
        if self.columns and self.format != "csv":
            raise ValueError(f"columns names the columns of a CSV file without a header; this is {self.format}")
        used = set(self.text_columns)
        for where, names in (("values", self.values), ("missing_text", self.missing_text)):
            for name in names:
                if name not in used:
                    raise ValueError(f"{where}.{name}: the sentence does not use this column")
        odd = next((name for name in self.constant_columns if name not in used | {self.answer_column}), None)
        if odd is not None:
            raise ValueError(f"constant_columns: neither sentence nor label uses {odd!r}")
        if self.one_patient_may_dominate and self.patient_column is None:
            raise ValueError("one_patient_may_dominate goes with patient_column")
        if self.answer_column in used:
            raise ValueError(f"the {self.answer_name} column {self.answer_column!r} is part of the sentence")
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that the sentence reads."""
        if self.template is not None:
            return parse_template(self.template).columns
        return (self.text_column or "",)

    @property
    def task(self) -> TaskKind:
        """The kind of task that it is for."""
        if self.label is not None:
            return "sequence-classification"
        return "token-classification" if self.tags is not None else "causal-language-modelling"

    @property
    def answer_column(self) -> str:
        """The column that a record is held against."""
        given = self.label or self.tags
        return given.column if given is not None else self.response_column or ""

    @property
    def answer_name(self) -> str:
        """What a record is held against, in a word."""
        if self.response_column is not None:
            return "response"
        return "label" if self.label is not None else "tags"

    @property
    def answer_key(self) -> str:
        """Where in the file its classes are described."""
        return "label." if self.label is not None else "tags."

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The values that each class gathers; none for responses."""
        given = self.label or self.tags
        return {} if given is None else given.classes

    @property
    def drops_unanswered(self) -> bool:
        """Whether a record without label, tags or response is left out; else it is an error."""
        given = self.label or self.tags
        return given is not None and given.missing == "drop"

    @property
    def unit(self) -> Literal["record", "patient"]:
        """The unit of privacy of its population: a job must protect exactly this one."""
        return "record" if self.patient_column is None else "patient"

    def with_seed(self, registered: "DatasetSpec | None" = None) -> "DatasetSpec":
        """With a private seed where a fraction is held out and the file names none: the one that is registered under
        this name, so that adding a file twice changes nothing, else a fresh one from the operating system.
        """
        if self.held_out.fraction is None or self.held_out.seed is not None:
            return self
        known = registered.held_out.seed if registered is not None else None
        seed = secrets.randbits(SEED_BITS) if known is None else known
        return self.model_copy(update={"held_out": self.held_out.model_copy(update={"seed": seed})})

    def file(self, folder: Path) -> Path:
        """The data file, seen from the folder of the dataset's own TOML file."""
        return folder / self.path

    def files(self, folder: Path) -> tuple[Path, ...]:
        """Every file it consists of: the held-out part may have one of its own."""
        apart = self.held_out.path
        return (self.file(folder),) if apart is None else (self.file(folder), folder / apart)
