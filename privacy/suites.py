"""The cipher suites and what each can take: how a job's choice is checked before it exists."""

from enum import StrEnum

from privacy.ckks.multikey_params import MultikeyParams
from privacy.ckks.params import MAX_TOTAL_WEIGHT, GroupParams
from privacy.errors import ConfigError
from privacy.thresholds import check_multikey_cohort, usual_colluders

GROUP_SET = "group"  # the one parameter set of ckks-group
MULTIKEY_FROM = 4  # silos from which on a job that names no suite gets ckks-multikey


class Suite(StrEnum):
    """How updates are sealed. One suite for a whole job."""

    CKKS_GROUP = "ckks-group"  # all silos hold one key: each of them can open every update
    CKKS_MULTIKEY = "ckks-multikey"  # a key each silo and round: nobody can open one update

    @property
    def keyed(self) -> bool:
        """Whether keys are made for each round, so that shares of them have to be released before a sum opens."""
        return self is Suite.CKKS_MULTIKEY


def usual_suite(silos: int) -> Suite:
    """What a job file that names none gets."""
    return Suite.CKKS_MULTIKEY if silos >= MULTIKEY_FROM else Suite.CKKS_GROUP


def usual_tolerance(suite: Suite, silos: int) -> int:
    """How many colluders a job file that names none gets: a shared key tolerates none."""
    return usual_colluders(silos) if suite.keyed else 0


def usual_parameters(suite: Suite, values: int) -> str:
    """The parameter set of a job file that names none."""
    return MultikeyParams.usual_set(values) if suite.keyed else GROUP_SET


def check_suite(suite: Suite, parameters: str, silos: int, colluders: int, minimum: int, grid_bits: int) -> None:
    """Raises ConfigError, with what would work, unless the suite can sum what so many silos send."""
    if suite.keyed:
        check_multikey_cohort(silos, colluders, minimum)
        MultikeyParams(parameters, silos, grid_bits)
        return
    if parameters != GROUP_SET:
        raise ConfigError("ckks-group", f"has no parameter set {parameters!r}", f"Its one set is {GROUP_SET!r}.")
    if silos > MAX_TOTAL_WEIGHT:
        why = f"sums at most {MAX_TOTAL_WEIGHT} updates, and the job has {silos} silos"
        raise ConfigError("ckks-group", why, "Leave some out, or choose the suite ckks-multikey.")
    GroupParams(grid_bits, silos)
