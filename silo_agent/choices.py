"""What a job file leaves open about suite and cohort, worked out. Without torch: a rehearsal is planned without it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from privacy.errors import ConfigError
from privacy.fields import Strict
from privacy.plan import AdaptiveServer, MeanServer
from privacy.suites import Suite, check_suite, usual_parameters, usual_suite, usual_tolerance
from privacy.thresholds import threshold

OpenTo = Literal["silos", "silos+aggregator"]


Positive = Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)]  # TOML's 2 means 2.0
Decay = Annotated[float, Field(ge=0, lt=1, strict=False)]


class ServerChoice(Strict):
    """[server]: how the mean of a round's updates moves the global adapter."""

    optimiser: Literal["mean", "adagrad", "adam", "yogi"] = "mean"
    learning_rate: Positive = 1.0
    beta1: Decay | None = None
    beta2: Decay | None = None
    adaptivity: Positive | None = None

    def fixed(self) -> MeanServer | AdaptiveServer:
        """As the plan writes it. Raises ConfigError for what the optimiser does not take."""
        given = [name for name in ("beta1", "beta2", "adaptivity") if getattr(self, name) is not None]
        if self.optimiser == "adagrad" and self.beta2 is not None:
            raise ConfigError("server.beta2", "adagrad sums squares and has no second decay", "Leave it out.")
        if self.optimiser != "mean":
            return AdaptiveServer(
                kind=self.optimiser,
                learning_rate=self.learning_rate,
                beta1=0.9 if self.beta1 is None else self.beta1,
                beta2=0.0 if self.optimiser == "adagrad" else 0.99 if self.beta2 is None else self.beta2,
                adaptivity=1e-3 if self.adaptivity is None else self.adaptivity,
            )
        if given:
            what, why = f"server.{given[0]}", "the optimiser is the mean, which has none"
            raise ConfigError(what, why, "Leave it out, or set server.optimiser to adam, yogi or adagrad.")
        return MeanServer(learning_rate=self.learning_rate)


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
