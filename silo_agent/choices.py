"""What a job file leaves open about suite and cohort, worked out. Without torch: a rehearsal is planned without it."""

from dataclasses import dataclass
from typing import Literal

from privacy.errors import ConfigError
from privacy.suites import Suite, check_suite, usual_parameters, usual_suite, usual_tolerance
from privacy.thresholds import threshold

OpenTo = Literal["silos", "silos+aggregator"]


@dataclass(frozen=True)
class Choices:
    """A plan's suite, its parameter set, and whom the cohort has to reckon with."""

    suite: Suite
    parameters: str
    tolerated_colluders: int
    minimum: int


@dataclass(frozen=True)
class Wanted:
    """What the job file says; None is what it leaves open."""

    suite: Suite | None
    parameters: str | None
    tolerated_colluders: int | None
    minimum: int | None
    grid_bits: int


def settle(wanted: Wanted, silos: int, values: int) -> Choices:
    """What is open gets its usual value; a minimum, all silos, or for one-time keys the fewest that can open a sum.

    Raises ConfigError, with what would work, for a suite that cannot sum what so many silos send. The rest of what
    can be wrong with a cohort is JobPlan's to say.
    """
    suite = wanted.suite or usual_suite(silos)
    parameters = usual_parameters(suite, values) if wanted.parameters is None else wanted.parameters
    usual = usual_tolerance(suite, silos)
    colluders = usual if wanted.tolerated_colluders is None else wanted.tolerated_colluders
    fewest = threshold(silos, colluders) if suite.keyed else silos
    minimum = fewest if wanted.minimum is None else wanted.minimum
    check_suite(suite, parameters, silos, colluders, minimum, wanted.grid_bits)
    if colluders > silos - 2:
        why = f"is {colluders}, and of {silos} silos two have to be honest"
        raise ConfigError("cohort.tolerated_colluders", why, f"Set it to at most {silos - 2}, or list more silos.")
    return Choices(suite, parameters, colluders, minimum)
