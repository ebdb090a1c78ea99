"""What a steward registered in silo.db: datasets."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from certs.times import utc_text
from privacy.errors import ConfigError, Refused
from silo_agent.tables import dataset_files, datasets


@dataclass(frozen=True)
class DataFile:
    """A file of records: where it lies, and the SHA-256 of what it held when it was registered. Neither ever leaves."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class RegisteredDataset:
    """A dataset by name: its description as it was when it was added, and the folder its paths start at."""

    name: str
    population: str
    folder: Path
    spec: str


def data_files(paths: Iterable[Path]) -> tuple[DataFile, ...]:
    """The files at these paths, links resolved. Raises ConfigError for one that cannot be read."""
    return tuple(DataFile(path.resolve(), _digest(path)) for path in paths)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"data file {path}", error.strerror or type(error).__name__, "Correct its path.") from error


def add_dataset(connection: Connection, dataset: RegisteredDataset, files: Iterable[DataFile], now: datetime) -> None:
    """Register a dataset, which consists of `files`.

    Raises Refused when the name is taken (a population must not change under a name), and when a file, by its place or
    by what is in it, belongs to another population already: the same people would have two budgets.
    """
    files = tuple(files)
    for file in files:
        _check_one_population(connection, dataset, file)
    found = connection.execute(select(datasets).where(datasets.c.name == dataset.name)).one_or_none()
    values: dict[str, Any] = {
        "name": dataset.name,
        "population": dataset.population,
        "folder": str(dataset.folder),
        "spec": dataset.spec,
    }
    if found is None:
        connection.execute(insert(datasets).values(**values, added_utc=utc_text(now)))
    elif any(getattr(found, key) != value for key, value in values.items()):
        raise Refused(
            f"dataset {dataset.name!r}",
            "another description is registered under this name",
            "Give the new version a name of its own; versions that overlap share a population.",
        )
    for file in files:
        row = {"dataset": dataset.name, "path": str(file.path), "sha256": file.sha256}
        connection.execute(upsert(dataset_files).values(**row).on_conflict_do_nothing())


def _check_one_population(connection: Connection, dataset: RegisteredDataset, file: DataFile) -> None:
    same = (dataset_files.c.path == str(file.path)) | (dataset_files.c.sha256 == file.sha256)
    rows = select(datasets.c.name, datasets.c.population).join(
        dataset_files, dataset_files.c.dataset == datasets.c.name
    )
    other = connection.execute(rows.where(same, datasets.c.population != dataset.population)).first()
    if other is not None:
        raise Refused(
            f"dataset {dataset.name!r}",
            f"{file.path.name} is of population {other.population} already, in dataset {other.name}",
            f'One population has one budget: set population = "{other.population}".',
        )


def check_unchanged(connection: Connection, dataset: RegisteredDataset, files: Iterable[DataFile]) -> None:
    """Raises ConfigError naming a file that holds something else than when the dataset was registered.

    What a job was approved for, and what a guarantee speaks of, is the registered dataset.
    """
    of_dataset = select(dataset_files.c.sha256).where(dataset_files.c.dataset == dataset.name)
    known = set(connection.execute(of_dataset).scalars())
    changed = next((file for file in files if file.sha256 not in known), None)
    if changed is not None:
        raise ConfigError(
            f"dataset {dataset.name!r}",
            f"{changed.path.name} has changed since it was registered",
            "Put the file back, or register what it is now: `cloister silo datasets add`.",
        )


def check_as_ever(connection: Connection, dataset: RegisteredDataset, files: Iterable[DataFile]) -> None:
    """Raises ConfigError unless these are all that the dataset ever consisted of: whose records an earlier version of
    a file had, nobody can tell from a later one.
    """
    files = tuple(files)
    check_unchanged(connection, dataset, files)
    of_dataset = select(dataset_files.c.path, dataset_files.c.sha256).where(dataset_files.c.dataset == dataset.name)
    ever = {(path, sha256) for path, sha256 in connection.execute(of_dataset)}
    if ever != {(str(file.path), file.sha256) for file in files}:
        why = "its files held something else when they were registered before, and that cannot be read again"
        raise ConfigError(f"dataset {dataset.name!r}", why, "Put the earlier files back under a name of their own.")


def require_dataset(connection: Connection, name: str) -> RegisteredDataset:
    """The dataset with this name. Raises ConfigError naming those there are."""
    row = connection.execute(select(datasets).where(datasets.c.name == name)).one_or_none()
    if row is None:
        known = ", ".join(dataset.name for dataset in all_datasets(connection)) or "none"
        raise ConfigError(
            f"dataset {name!r}", f"is not registered (there are: {known})", "Add it: `cloister silo datasets add`."
        )
    return RegisteredDataset(row.name, row.population, Path(row.folder), row.spec)


def all_datasets(connection: Connection) -> tuple[RegisteredDataset, ...]:
    """Every dataset, by name."""
    rows = connection.execute(select(datasets).order_by(datasets.c.name))
    return tuple(RegisteredDataset(row.name, row.population, Path(row.folder), row.spec) for row in rows)
