"""JobPlan: everything a job fixes in advance and in public, and RoundContext, the `ctx` of the round protocol.

A plan is canonical JSON (RFC 8785); its digest names the job everywhere: in certificates of consent, in the budget,
in the ledger. Nothing in a plan is derived from exact record counts or from the values of records.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from privacy.canonical import canonical_json, digest
from privacy.document import Document
from privacy.errors import ConfigError
from privacy.fields import Hex32, Name, PositiveReal, Strict, Text, Utc
from privacy.mechanism import DpSgd
from privacy.metrics import COORDINATES
from privacy.shared_noise import SharedGrid
from privacy.suites import Suite, check_suite
from privacy.tasks import HEADS, MAX_VALUES, ModelTask, Rehearsal, TensorSpec, TrainedTask
from privacy.thresholds import MOST_PARTICIPANTS, threshold

PLAN_LABEL = "cloister/v1/plan"
ROUND_LABEL = "cloister/v1/round"
SAME_RANGE = 1e-6  # relative


class MeanServer(Strict):
    """FedAvg: the next adapter is the last one plus `learning_rate` times the mean of the updates."""

    kind: Literal["mean"] = "mean"
    learning_rate: PositiveReal = 1.0


class AdaptiveServer(Strict):
    """FedAdagrad, FedAdam or FedYogi (privacy.server). Adagrad has no second decay: its beta2 is 0."""

    kind: Literal["adagrad", "adam", "yogi"]
    learning_rate: PositiveReal
    beta1: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    beta2: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    adaptivity: Annotated[float, Field(ge=1e-12, le=1e12, allow_inf_nan=False)]  # tau

    @model_validator(mode="after")
    def _no_decay_of_a_sum(self) -> Self:
        if self.kind == "adagrad" and self.beta2:
            raise ValueError("adagrad sums squares and has no second decay: beta2 must be 0")
        return self


class Grid(Strict):
    """The integer grid on which updates are summed."""

    bits: Annotated[int, Field(ge=8, le=16)]


class RosterMember(Strict):
    """A party by its name and its Ed25519 identity key (raw 32 bytes, hex)."""

    name: Name
    identity_key: Hex32


class Cohort(Strict):
    """Who may take part, and how few may go on."""

    roster: tuple[RosterMember, ...] = Field(strict=False, min_length=2, max_length=MOST_PARTICIPANTS)
    minimum: Annotated[int, Field(ge=2)]
    tolerated_colluders: Annotated[int, Field(ge=0)]
    minimum_dataset_size: Annotated[int, Field(ge=1)]  # fewer units of privacy: the silo refuses the job


class Deadlines(Strict):
    """Seconds from the moment a step opens until the aggregator goes on without the silent."""

    join_job_s: PositiveReal
    join_round_s: PositiveReal
    submit_s: PositiveReal
    consent_s: PositiveReal
    apply_s: PositiveReal


class JobPlan(Document):
    """Everything a job fixes in advance and in public."""

    what: ClassVar[str] = "job plan"
    next_step: ClassVar[str] = "Correct the job file and submit it again."

    version: Literal["cloister/v1"]
    name: Name
    federation: Name
    purpose: Text
    task: TrainedTask | Rehearsal = Field(discriminator="kind")
    dp: DpSgd | None
    server: MeanServer | AdaptiveServer = Field(default=MeanServer(), discriminator="kind")
    rounds: Annotated[int, Field(gt=0, le=10_000)]
    round_attempts: Annotated[int, Field(gt=0, le=20_000)]  # a failed round's number is burnt; this many in all
    suite: Suite = Field(strict=False)
    parameters: str  # the suite's parameter set (privacy.suites)
    open_to: Literal["silos", "silos+aggregator"]  # who gets the opened model: silos open sums in either case
    grid: Grid
    initial_adapter: Hex32  # privacy.flatten.adapter_digest of the starting values; of zeros for a rehearsal
    cohort: Cohort
    aggregator: RosterMember  # its identity key signs commits: two for one round are evidence
    deadlines: Deadlines
    created_utc: Utc
    nonce: Hex32  # makes two submissions of one job file two jobs

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [member.name for member in self.cohort.roster]
        keys = [member.identity_key for member in self.cohort.roster]
        if names != sorted(set(names)):
            raise ValueError("cohort.roster must be sorted by name, each name once")
        if len(set(keys)) != len(keys):
            raise ValueError("cohort.roster lists one identity key under two names")
        n, c, least = len(names), self.cohort.tolerated_colluders, self.cohort.minimum
        if not c + 2 <= least <= n:
            raise ValueError(
                f"cohort.minimum is {least}; with {n} silos, {c} of them colluding, it must be {c + 2}-{n}"
            )
        try:
            check_suite(self.suite, self.parameters, n, c, least, self.grid.bits)
        except ConfigError as error:
            raise ValueError(f"suite: {error.what} {error.why}. {error.next_step}") from error
        if self.aggregator.name in names or self.aggregator.identity_key in keys:
            raise ValueError("aggregator must be a party of its own, not a silo of the roster")
        if self.values + COORDINATES > MAX_VALUES:
            raise ValueError(f"task.adapter.tensors hold {self.values} values, more than {MAX_VALUES}")
        if self.round_attempts < self.rounds:
            raise ValueError("round_attempts must be at least rounds")
        if isinstance(self.task, ModelTask) and self.dp is None:
            raise ValueError("a job on data must have [dp]; only a rehearsal, which touches no data, may go without")
        if isinstance(self.task, Rehearsal) and self.dp is not None:
            raise ValueError("a rehearsal touches no data and takes no [dp]")
        if isinstance(self.task, ModelTask):
            if self.task.adapter.head not in HEADS[self.task.kind]:
                allowed = " or ".join(HEADS[self.task.kind])
                raise ValueError(f"task.adapter.head is {self.task.adapter.head}; for {self.task.kind} it is {allowed}")
            tensors = [tensor.name for tensor in self.task.adapter.tensors]
            if tensors != sorted(set(tensors)):
                raise ValueError("task.adapter.tensors must be sorted by name, each name once")
        return self

    @model_validator(mode="after")
    def _sound_mechanism(self) -> Self:
        if self.dp is None:
            return self
        if self.dp.delta * self.cohort.minimum_dataset_size > 1:
            raise ValueError(
                f"dp.delta is {self.dp.delta:g}; with cohort.minimum_dataset_size = {self.cohort.minimum_dataset_size} "
                f"it must be at most {1 / self.cohort.minimum_dataset_size:.2g}: to publish one {self.dp.unit} of so "
                "many whole would keep within it"
            )
        if self.dp.noise == "shared":
            self._check_shared_noise(self.dp)
        fastest = max(tensor.learning_rate for tensor in self.tensors)
        if self.dp.proximal * fastest > 1:
            raise ValueError(
                f"dp.proximal is {self.dp.proximal:g}; times the largest learning rate, {fastest:g}, it is over 1, and "
                "a step would overshoot the global adapter"
            )
        return self

    def _check_shared_noise(self, dp: DpSgd) -> None:
        honest = self.cohort.minimum - self.cohort.tolerated_colluders
        wrong = {
            f"needs suite ckks-multikey: with {self.suite} a silo's own share of the noise can be seen alone": (
                not self.suite.keyed
            ),
            "allows one step a round: a second step would start from a first that is not noised enough": (
                dp.steps_per_round != 1
            ),
            "has one step a round, which starts at the global adapter: dp.proximal does nothing there": (
                dp.proximal > 0
            ),
            f"is made up of as many shares as a sum has honest members, cohort.minimum less colluders: {honest}": (
                dp.noise_shares != honest
            ),
        }
        for why, found in wrong.items():
            if found:
                raise ValueError(f'dp.noise = "shared" {why}')
        try:
            reach = self.shared_grid.reach
        except ConfigError as error:
            raise ValueError(f"dp: {error.what}: {error.why}. {error.next_step}") from error
        try:
            if dp.metrics is not None:
                dp.metrics_grid(self.grid.bits)
        except ConfigError as error:
            why = "leaves the shared noise too coarse a grid; lower it, or raise the noise_multiplier beside it"
            raise ValueError(f"dp.metrics.most_units {why}") from error
        for tensor in self.tensors:
            if not math.isclose(tensor.update_range, tensor.learning_rate * reach, rel_tol=SAME_RANGE):
                raise ValueError(f"{tensor.name}: update_range is not what the grid of shared noise makes it")

    @property
    def shared_grid(self) -> SharedGrid:
        """How each silo rounds and noises its sum. Raises ConfigError for a job with local noise."""
        if self.dp is None or self.dp.noise != "shared":
            raise ConfigError(f"job {self.name!r}", "does not share its noise", "Its silos noise each step.")
        return self.dp.shared_grid(self.values, self.grid.bits)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """What trains, in flattening order."""
        match self.task:
            case ModelTask(adapter=adapter):
                return adapter.tensors
            case Rehearsal(values=values, update_range=update_range):
                return (TensorSpec(name="rehearsal", shape=(values,), update_range=update_range, learning_rate=1.0),)

    @property
    def values(self) -> int:
        """The number of trained coordinates, those of an adapter."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def sent(self) -> tuple[TensorSpec, ...]:
        """What a silo sends in a round: what trains, and the validation sums where the plan has them."""
        if self.dp is None or self.dp.metrics is None:
            return self.tensors
        return (*self.tensors, self.dp.metrics_tensor(self.grid.bits))

    @property
    def sent_values(self) -> int:
        """The number of coordinates a silo sends."""
        return sum(tensor.size for tensor in self.sent)

    @property
    def identity_keys(self) -> dict[str, bytes]:
        """Raw Ed25519 identity keys by silo name."""
        return {member.name: bytes.fromhex(member.identity_key) for member in self.cohort.roster}

    @property
    def least_participants(self) -> int:
        """How few silos may make up a roll or a round: the minimum, and over half of the roster with the colluders.

        Two cohorts that are told of each other's absence would then share an honest silo, which accepts one roll and
        joins one list a round number: a job cannot be split into two that go on with different adapters.
        """
        return max(self.cohort.minimum, threshold(len(self.cohort.roster), self.cohort.tolerated_colluders))

    def threshold(self, participants: int) -> int:
        """How many consents to one transcript make a certificate (privacy.thresholds says why)."""
        return threshold(participants, self.cohort.tolerated_colluders)

    def digest(self) -> bytes:
        """32 bytes that name this job."""
        return digest(PLAN_LABEL, self.encode())


@dataclass(frozen=True)
class RoundContext:
    """The `ctx` every signed, hashed or encrypted byte string of a round is bound to.

    ctx = H("cloister/v1/round", plan digest, round, digest of the current global adapter, participant list).
    """

    plan_digest: bytes
    round_number: int
    adapter_digest: bytes
    participants: tuple[str, ...]

    def digest(self) -> bytes:
        """32 bytes; equal for two parties only if they agree on all four."""
        names = canonical_json(list(self.participants))
        return digest(ROUND_LABEL, self.plan_digest, self.round_number.to_bytes(8, "big"), self.adapter_digest, names)
