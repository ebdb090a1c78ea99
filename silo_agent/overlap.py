"""One population, one budget: a dataset whose records are mostly those of another population's is refused.

What is compared is what makes a record, or a patient, known again (silo_agent.datasets). It is read for this, held in
memory and forgotten: nothing of it is stored, not as digests either, which would tell whoever guesses a record whether
it is there.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfigError, Refused
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.datasets import Identities, identities
from silo_agent.register import RegisteredDataset


@dataclass(frozen=True)
class Uncompared:
    """A registered dataset of another population that could not be read again, and why."""

    name: str
    population: str
    why: str


def check_apart(
    spec: DatasetSpec, folder: Path, registered: Iterable[RegisteredDataset], may_miss: Collection[str] = ()
) -> tuple[Uncompared, ...]:
    """A dataset shares less than half of its records and patients with any dataset of another population.

    Half of either's is too much: neither does a population's name change with a file that holds more. Raises Refused,
    naming both and the population to use; and where one cannot be read again, unless it is among those that `may_miss`
    names. Returns these.
    """
    own, uncompared = identities(spec, folder), []
    for other in registered:
        if other.population == spec.population:
            continue
        try:
            found = identities(DatasetSpec.model_validate_json(other.spec), other.folder)
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


def _mostly(one: Identities, other: Identities) -> bool:
    """At least half of the records of the one, or of its patients, are in the other."""
    pairs = ((one.records, other.records), (one.patients, other.patients))
    return any(own and 2 * len(own & others) >= len(own) for own, others in pairs)
