"""One population, one budget: a dataset whose records are mostly those of another population's is refused.

What is compared is what makes a record, or a patient, known again (silo_agent.datasets). It is read for this, held in
memory and forgotten: nothing of it is stored, not as digests either, which would tell whoever guesses a record whether
it is there.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from privacy.errors import ConfigError, Refused
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.datasets import Identities, identities
from silo_agent.register import RegisteredDataset, all_datasets, check_as_ever, data_files, require_dataset


@dataclass(frozen=True)
class Uncompared:
    """A registered dataset of another population that cannot be read again as it was, and why."""

    name: str
    population: str
    why: str


def check_apart(
    connection: Connection, spec: DatasetSpec, folder: Path, may_miss: Collection[str] = ()
) -> tuple[Uncompared, ...]:
    """A dataset shares less than half of its records and patients with any registered one of another population.

    Half of either's is too much: neither does a population's name change with a file that holds more. Raises Refused,
    naming both and the population to use; and where one cannot be read again as it was registered, unless it is among
    those that `may_miss` names; ConfigError for a name that is none. Returns what was not compared.
    """
    for name in may_miss:
        require_dataset(connection, name)
    own, uncompared = identities(spec, folder), []
    for other in all_datasets(connection):
        if other.population == spec.population:
            continue
        try:
            found = _as_registered(connection, other)
        except ConfigError as error:
            if other.name not in may_miss:
                why = f"cannot be compared with dataset {other.name} of population {other.population}: {error.why}"
                step = f"Put its files back. If these are other people, say `--not-compared {other.name}`."
                raise Refused(f"dataset {spec.name!r}", why, step) from error
            uncompared.append(Uncompared(other.name, other.population, error.why))
            continue
        step = f'One population has one budget: set population = "{other.population}".'
        if _mostly(own, found):
            why = f"at least half of its records are of population {other.population} already, in dataset {other.name}"
            raise Refused(f"dataset {spec.name!r}", why, step)
        if _mostly(found, own):
            why = f"it has at least half of the records of dataset {other.name}, of population {other.population}"
            raise Refused(f"dataset {spec.name!r}", why, step)
    return tuple(uncompared)


def _as_registered(connection: Connection, dataset: RegisteredDataset) -> Identities:
    """Raises ConfigError if its files cannot be read, or hold something else by now than ever since it was added."""
    spec = DatasetSpec.model_validate_json(dataset.spec)
    found = identities(spec, dataset.folder)
    check_as_ever(connection, dataset, data_files(spec.files(dataset.folder)))
    return found


def _mostly(one: Identities, other: Identities) -> bool:
    """At least half of the records of the one, or of its patients, are in the other."""
    pairs = ((one.records, other.records), (one.patients, other.patients))
    return any(own and 2 * len(own & others) >= len(own) for own, others in pairs)
