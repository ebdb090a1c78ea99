"""The mechanism of one silo in one round: DP-SGD, whose noise it adds alone or shares, and what is published beside."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.errors import InternalError
from privacy.fields import Positive, PositiveReal, Strict
from privacy.metrics import COORDINATES, NOISE_DEVIATIONS, SENSITIVITY
from privacy.shared_noise import SharedGrid, shared_grid
from privacy.tasks import TensorSpec


class Metrics(Strict):
    """Noised validation sums that every round publishes (privacy.metrics), and what they cost."""

    noise_multiplier: PositiveReal  # of each silo's sums, or with shared noise of its honest members' together
    loss_bound: PositiveReal  # where a record's loss is cut off
    most_units: Annotated[int, Field(gt=0, le=10_000_000)]  # more held-out units than this at one silo are cut off


class DpSgd(Strict):
    """The mechanism of one silo in one round (dp-and-budget.md, Training). Noise multiplier and steps are promises."""

    clip_l2: PositiveReal
    noise_multiplier: PositiveReal
    sampling_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    steps_per_round: Positive
    expected_batch_size: PositiveReal  # public divisor of the noised sum; never derived from a silo's record count
    unit: Literal["record", "patient"]
    delta: Annotated[float, Field(gt=0, lt=0.1, allow_inf_nan=False)]
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # mu of FedProx; 0: none
    noise: Literal["local", "shared"] = "local"
    noise_shares: Annotated[int, Field(ge=1)] = 1  # shared: of so many honest silos the noise of a sum is made up
    metrics: Metrics | None = None

    @model_validator(mode="after")
    def _one_or_many(self) -> Self:
        if (self.noise == "shared") != (self.noise_shares > 1):
            raise ValueError(f"dp.noise is {self.noise}, and dp.noise_shares {self.noise_shares}")
        return self

    def shared_grid(self, values: int, bits: int) -> SharedGrid:
        """How each silo rounds and noises its sum of so many values. Raises ConfigError if no grid is fine enough."""
        return shared_grid(
            clip_l2=self.clip_l2,
            noise_multiplier=self.noise_multiplier,
            shares=self.noise_shares,
            expected_batch_size=self.expected_batch_size,
            values=values,
            bits=bits,
        )

    def metrics_grid(self, bits: int) -> SharedGrid:
        """How each silo rounds and noises its validation sums, where the noise is shared."""
        metrics = self._metrics()
        return shared_grid(
            clip_l2=SENSITIVITY,
            noise_multiplier=metrics.noise_multiplier,
            shares=self.noise_shares,
            expected_batch_size=metrics.most_units,
            values=COORDINATES,
            bits=bits,
        )

    def metrics_tensor(self, bits: int) -> TensorSpec:
        """The coordinates of the validation sums, after all trained ones, and what they are cut off at."""
        metrics = self._metrics()
        if self.noise == "shared":
            reach = self.metrics_grid(bits).reach * metrics.most_units
        else:
            reach = metrics.most_units / 2 + NOISE_DEVIATIONS * metrics.noise_multiplier * SENSITIVITY
        return TensorSpec(name="validation", shape=(COORDINATES,), update_range=reach, learning_rate=1.0)

    def metrics_deviation(self, members: int, bits: int) -> float:
        """Of the noise in the sum over so many members."""
        if self.noise == "local":
            return self._metrics().noise_multiplier * SENSITIVITY * math.sqrt(members)
        grid = self.metrics_grid(bits)
        return math.sqrt(members * grid.variance) / grid.scale

    def _metrics(self) -> Metrics:
        if self.metrics is None:
            raise InternalError("validation", "asked of a plan without", "Report this.")
        return self.metrics
