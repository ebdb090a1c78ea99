"""Load a registered dataset: sentences, labels, units of privacy, a local held-out part.

Nothing here leaves the silo. Errors name columns and row numbers, never the value of a record or how many there are.
"""

import hmac
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from privacy.errors import ConfigError, Refused
from privacy.plan import JobPlan
from privacy.tasks import ModelTask
from silo_agent.dataset_spec import DatasetSpec, TaskKind
from silo_agent.template import Template, as_text, parse_template

Indices = npt.NDArray[np.int64]
ENOUGH_TO_JUDGE = 20  # records; fewer may be alike by chance
DRAW_BYTES = 8  # of a MAC, as a fraction of one


@dataclass(frozen=True)
class Part:
    """Records of one part: parallel texts, labels (index into the classes) and units (0..unit_count-1).

    `tags`, of token classification, are an index into the classes for each of a text's words; `responses`, of language
    modelling, are what shall follow the texts. The labels count for neither.
    """

    texts: tuple[str, ...] = field(repr=False)
    labels: Indices = field(repr=False)
    units: Indices = field(repr=False)
    tags: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    responses: tuple[str, ...] = field(default=(), repr=False)

    @property
    def unit_count(self) -> int:
        """How many records or patients: local knowledge, never sent."""
        return int(self.units.max()) + 1 if self.units.size else 0

    @property
    def most_records(self) -> int:
        """Of one unit: local knowledge, never sent."""
        return int(np.bincount(self.units).max()) if self.units.size else 0


@dataclass(frozen=True)
class Dataset:
    """A loaded dataset.

    `public_size` is what its steward says of its size, at most `training.unit_count`: jobs are measured by it alone.
    """

    name: str
    population: str
    unit: Literal["record", "patient"]
    classes: tuple[str, ...]
    training: Part = field(repr=False)
    held_out: Part = field(repr=False)
    public_size: int
    task: TaskKind = "sequence-classification"


@dataclass(frozen=True)
class _Row:
    """One record. `identity` says which unit of privacy it belongs to, and hangs on nothing but the record itself."""

    text: str
    answer: "Answer"
    unit: str
    identity: tuple[str, ...]
    held_out: bool


@dataclass(frozen=True)
class Answer:
    """What a record is held against: a class of its text, of each of its words, or a response. `spoken` names it."""

    spoken: str
    label: int = 0
    tags: tuple[int, ...] = ()
    response: str = ""


@dataclass(frozen=True)
class Identities:
    """What makes a dataset's records and, where it names them, its patients known again."""

    records: frozenset[tuple[str, ...]] = field(repr=False)
    patients: frozenset[tuple[str, ...]] = field(repr=False)


def identities(spec: DatasetSpec, folder: Path) -> Identities:
    """Of all records, held out or not. Raises ConfigError as `load_dataset` does."""
    rows = [row for path in spec.files(folder) for row in _read(spec, path)]
    patients = frozenset(row.identity for row in rows) if spec.patient_column is not None else frozenset()
    return Identities(frozenset((row.answer.spoken, row.text) for row in rows), patients)


def load_dataset(spec: DatasetSpec, folder: Path) -> Dataset:
    """Read and check a whole dataset; relative paths start at `folder`.

    Raises ConfigError on a file that cannot be read, a column that is absent (naming the nearest), a value outside
    the classes or a value map, a null in the patient column, a column that is the same throughout, a patient with most
    of the records, and when there are fewer units to train on than `public_size` says. To add or remove one unit of
    privacy adds or removes that unit and moves no other between the parts.
    """
    rows = _read(spec, spec.file(folder))
    if spec.held_out.path is not None:
        rows += [replace(row, held_out=True) for row in _read(spec, folder / spec.held_out.path)]
    elif spec.held_out.fraction is not None:
        rows = _split(spec, rows, spec.held_out.fraction)
    training, held_out = [row for row in rows if not row.held_out], [row for row in rows if row.held_out]
    both = {row.unit for row in training} & {row.unit for row in held_out}
    if spec.patient_column is not None and both:
        raise ConfigError(
            f"dataset {spec.name!r}", "a patient has records both in training and held out", "Split by patient."
        )
    loaded = Dataset(
        name=spec.name,
        population=spec.population,
        unit=spec.unit,
        classes=tuple(spec.classes),
        task=spec.task,
        training=_part(training),
        held_out=_part(held_out),
        public_size=spec.public_size,
    )
    _require_size(loaded)
    return loaded


def require_fit(dataset: Dataset, plan: JobPlan) -> None:
    """Check a dataset against a job before any budget is touched.

    Raises ConfigError if the classes differ from the job's, Refused if the job protects another unit than the
    dataset's, wants more units than the dataset's public size, or has a delta above one over that size. How many there
    really are decides nothing, or a coordinator could find it out by asking with one minimum after the other.
    """
    if not isinstance(plan.task, ModelTask) or plan.dp is None:
        raise ConfigError(f"job {plan.name!r}", "trains on no data", "No dataset is needed for it.")
    if dataset.task != plan.task.kind:
        why = f"it is described for {dataset.task}; the job's task is {plan.task.kind}"
        raise ConfigError(f"dataset {dataset.name!r}", why, "Describe it with label, tags or response_column.")
    if sorted(dataset.classes) != sorted(plan.task.labels):
        raise ConfigError(
            f"dataset {dataset.name!r}",
            f"its classes are {', '.join(dataset.classes)}; the job's are {', '.join(plan.task.labels)}",
            "Name the classes in label.classes as the job does.",
        )
    if plan.dp.unit != dataset.unit:
        raise Refused(
            f"dataset {dataset.name!r}",
            f"the job protects one {plan.dp.unit}, and the unit of this dataset's population is the {dataset.unit}",
            f'Ask for a job with unit = "{dataset.unit}"; a dataset has patients if its file names patient_column.',
        )
    if dataset.public_size < plan.cohort.minimum_dataset_size:
        raise Refused(
            f"dataset {dataset.name!r}",
            f"its public_size is {dataset.public_size} {dataset.unit}s, below the job's minimum of"
            f" {plan.cohort.minimum_dataset_size}",
            "Register a larger dataset or refuse the job; nothing was spent.",
        )
    require_small_delta(dataset, plan.dp.delta, "job's")


def require_small_delta(dataset: Dataset, delta: float, whose: str) -> None:
    """Raises Refused where a mechanism that publishes one unit of the dataset whole would keep within `delta`.

    Decided by the public size alone: Dwork and Roth, The Algorithmic Foundations of DP, section 2.3.
    """
    if delta * dataset.public_size > 1:
        raise Refused(
            f"dataset {dataset.name!r}",
            f"the {whose} delta is {delta:g}, more than one in its {dataset.public_size} {dataset.unit}s",
            f"Ask for one of at most {1 / dataset.public_size:.2g}, better a tenth of it; nothing was spent.",
        )


def _require_size(dataset: Dataset) -> None:
    if dataset.training.unit_count < dataset.public_size:
        raise ConfigError(
            f"dataset {dataset.name!r}",
            f"fewer than public_size = {dataset.public_size} {dataset.unit}s are left to train on once records with"
            " missing values and the held-out part are taken away",
            "Write a smaller, rounded public_size, or check `missing`, `missing_text` and `held_out`.",
        )


def _read(spec: DatasetSpec, path: Path) -> list[_Row]:
    frame = _frame(spec, path)
    needed = [*spec.text_columns, spec.answer_column]
    needed += [name for name in (spec.patient_column, spec.held_out.column) if name is not None]
    for name in needed:
        if name not in frame.columns:
            near = get_close_matches(name, [str(column) for column in frame.columns], n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ConfigError(f"dataset {spec.name!r}", f"{path.name} has no column {name!r}{hint}", "Correct it.")
    template = parse_template(spec.template) if spec.template is not None else None
    seen: dict[str, set[str]] = {name: set() for name in (*spec.text_columns, spec.answer_column)}
    rows = list(_rows(spec, frame, template, seen))
    _check_oddities(spec, rows, seen)
    return rows


def _check_oddities(spec: DatasetSpec, rows: list[_Row], seen: dict[str, set[str]]) -> None:
    """Refuse what nearly always is a mistake, once there are enough records for it to be no chance.

    Raises ConfigError on a column that reads the same in every record, one class for all, and a patient who has more
    than half of the records, unless the description says that it is known.
    """
    if len(rows) < ENOUGH_TO_JUDGE:
        return
    what = f"dataset {spec.name!r}"
    for name, found in seen.items():
        if len(found) < 2 and name not in spec.constant_columns:
            why = f"column {name!r} is the same in every record, so it tells nothing"
            hint = f'Correct the file or leave it out; if it is right, set constant_columns = ["{name}"].'
            raise ConfigError(what, why, hint)
    _, most = Counter(row.unit for row in rows).most_common(1)[0]
    if spec.patient_column is not None and 2 * most > len(rows) and not spec.one_patient_may_dominate:
        why = f"one patient in {spec.patient_column!r} has more than half of the records"
        hint = (
            "Is it the right column, and no stand-in for unknown? If it is right, set one_patient_may_dominate = true."
        )
        raise ConfigError(what, why, hint)


def _frame(spec: DatasetSpec, path: Path) -> pd.DataFrame:
    try:
        match spec.format:
            case "csv":
                frame = _csv(path, header=not spec.columns)
            case "jsonl":
                frame = _json_lines(path)
            case "parquet":
                frame = pd.read_parquet(path, dtype_backend="numpy_nullable")  # one null turns no column to floats
    except FileNotFoundError as error:
        raise ConfigError(f"dataset {spec.name!r}", f"there is no file {path}", "Correct `path`.") from error
    except (ValueError, OSError, ImportError, pd.errors.ParserWarning) as error:  # pyarrow's errors are ValueErrors
        why = f"{path.name} does not read as {spec.format} ({type(error).__name__})"
        raise ConfigError(f"dataset {spec.name!r}", why, "Correct the file or `format`.") from error
    if spec.columns:
        if len(spec.columns) != frame.shape[1]:
            why = f"`columns` names {len(spec.columns)} columns and {path.name} has {frame.shape[1]}"
            raise ConfigError(f"dataset {spec.name!r}", why, "Name every column, in order.")
        frame.columns = pd.Index(spec.columns)
    return frame


def _json_lines(path: Path) -> pd.DataFrame:
    """One object a line, every value as JSON gives it: pandas' own reader guesses dates and widens integers."""
    with path.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    return pd.DataFrame(rows, dtype=object)


def _csv(path: Path, *, header: bool) -> pd.DataFrame:
    """Every cell as the text it is; a line with more cells than the first is an error, not an index."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, dtype=str, keep_default_na=False, header=0 if header else None, index_col=False)


def _rows(
    spec: DatasetSpec, frame: pd.DataFrame, template: Template | None, seen: dict[str, set[str]]
) -> Iterator[_Row]:
    """The records, in order; puts into `seen` what each column of the sentence reads as, and the classes."""
    marks = {"", *(mark.strip() for mark in spec.missing)}
    readings = {name: {as_text(key): text for key, text in table.items()} for name, table in spec.values.items()}
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    for i in range(len(frame)):
        where = f"row {i + 1} of dataset {spec.name!r}"
        cell = {name: _cell(_joined(spec, name, cells[i], where), marks) for name, cells in columns.items()}
        patient = _patient(spec, cell, where)
        words = _words(spec, cell, readings, where)
        given = cell[spec.answer_column]
        if given is None and not spec.drops_unanswered:
            why, drop = f"no {spec.answer_name} in {spec.answer_column!r}", f'set {spec.answer_key}missing = "drop"'
            raise ConfigError(where, why, f"Correct it or {drop}." if spec.classes else "Fill it or leave it out.")
        if words is None or given is None:
            continue
        text = words[spec.text_columns[0]] if template is None else template.fill(words)
        answer = _answer(spec, given, text, where)
        for name, word in (*words.items(), (spec.answer_column, answer.spoken)):
            seen[name].add(word)
        held = spec.held_out.column is not None and cell[spec.held_out.column] == as_text(spec.held_out.value)
        identity = ("patient", patient) if patient is not None else ("record", answer.spoken, text)
        yield _Row(text, answer, patient or str(i), identity, held)


def _joined(spec: DatasetSpec, column: str, value: object, where: str) -> object:
    """A list of words, or of their tags, as one text; other values as they are."""
    if spec.task != "token-classification" or not isinstance(value, list | tuple | np.ndarray):
        return value
    words = [as_text(word) for word in value]
    if any(not word or word.split() != [word] for word in words):
        why = f"a word in {column!r} is empty or has a space in it"
        raise ConfigError(where, why, "Give one word, and one tag, for each item of the lists.")
    return " ".join(words)


def _answer(spec: DatasetSpec, given: str, text: str, where: str) -> Answer:
    """What the record is held against. Raises ConfigError on a value of no class, or tags that are not one a word."""
    if spec.response_column is not None:
        return Answer(given, response=given)
    names = tuple(spec.classes)
    class_of = {v: i for i, values in enumerate(spec.classes.values()) for v in values}
    each = given.split() if spec.task == "token-classification" else [given]
    if any(value not in class_of for value in each):
        why = f"the value in {spec.answer_column!r} belongs to none of the classes"
        raise ConfigError(where, why, f"Add the value to {spec.answer_key}classes or correct the record.")
    found = tuple(class_of[value] for value in each)
    spoken = " ".join(names[label] for label in found)
    if spec.task == "sequence-classification":
        return Answer(spoken, label=found[0])
    if len(found) != len(text.split()):
        why = f"{spec.answer_column!r} has not one tag for each word of the text"
        raise ConfigError(where, why, "Correct the record; words are what spaces separate.")
    return Answer(spoken, tags=found)


def _cell(value: object, marks: set[str]) -> str | None:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    text = as_text(value.item() if isinstance(value, np.generic) else value)
    return None if text in marks else text


def _patient(spec: DatasetSpec, cell: dict[str, str | None], where: str) -> str | None:
    if spec.patient_column is None:
        return None
    if cell[spec.patient_column] is None:
        why = f"no patient in {spec.patient_column!r}, so the record could not be counted to anybody"
        raise ConfigError(where, why, "Fill the column or leave the record out.")
    return cell[spec.patient_column]


def _words(
    spec: DatasetSpec, cell: dict[str, str | None], readings: dict[str, dict[str, str]], where: str
) -> dict[str, str] | None:
    """What each column of the sentence reads as; None if the record has a gap that no text fills."""
    words = {}
    for name in spec.text_columns:
        value = cell[name]
        if value is None:
            if name not in spec.missing_text:
                return None
            words[name] = spec.missing_text[name]
        elif name in readings:
            if value not in readings[name]:
                raise ConfigError(where, f"the value in {name!r} has no entry in values.{name}", "Add it there.")
            words[name] = readings[name][value]
        else:
            words[name] = value
    return words


def _split(spec: DatasetSpec, rows: list[_Row], fraction: float) -> list[_Row]:
    """Hold out each unit of privacy with probability `fraction`, decided by itself and the seed alone.

    Held out if HMAC-SHA256(seed, identity) < fraction, read as a number in [0, 1). Neither order nor number nor labels
    of the other units have a part in it: the guarantee is about adding or removing one unit of the whole registered
    dataset, so its removal must not shift others from training into the held-out part.
    """
    if spec.held_out.seed is None:
        why = "held_out.fraction has no seed, so the split would be another one each time"
        raise ConfigError(f"dataset {spec.name!r}", why, "Register it (`datasets add` draws a seed) or write one.")
    key, limit = str(spec.held_out.seed).encode(), fraction * 2.0 ** (8 * DRAW_BYTES)

    def held(row: _Row) -> bool:
        mac = hmac.digest(key, json.dumps(row.identity).encode(), "sha256")
        return int.from_bytes(mac[:DRAW_BYTES], "big") < limit

    return [replace(row, held_out=held(row)) for row in rows]


def _part(rows: list[_Row]) -> Part:
    index: dict[str, int] = {}
    units = np.array([index.setdefault(row.unit, len(index)) for row in rows], dtype=np.int64)
    return Part(
        tuple(row.text for row in rows),
        np.array([row.answer.label for row in rows], dtype=np.int64),
        units,
        tuple(row.answer.tags for row in rows),
        tuple(row.answer.response for row in rows),
    )
