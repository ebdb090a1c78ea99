"""JobPlan: everything a job fixes in advance and in public, and RoundContext, the `ctx` of the round protocol.

A plan is canonical JSON (RFC 8785); its digest names the job everywhere: in certificates of consent, in the budget,
in the ledger. Nothing in a plan is derived from exact record counts or from the values of records.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from privacy.canonical import canonical_json, digest, parse_canonical
from privacy.errors import ConfigError, InternalError, ProtocolError
from privacy.metrics import COORDINATES, NOISE_DEVIATIONS, SENSITIVITY
from privacy.shared_noise import SharedGrid, shared_grid
from privacy.suites import Suite, check_suite
from privacy.thresholds import MOST_PARTICIPANTS, threshold

PLAN_LABEL = "cloister/v1/plan"
ROUND_LABEL = "cloister/v1/round"
MAX_VALUES = 200_000_000
SAME_RANGE = 1e-6  # relative
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NOT_A_NAME = "is not a name: 1 to 63 of a-z, 0-9 and inner hyphens"


def _require_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(NOT_A_NAME)
    return text


Name = Annotated[str, AfterValidator(_require_name)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range = Annotated[float, Field(ge=1e-30, le=1e30, allow_inf_nan=False)]  # a normal float32
Text = Annotated[str, Field(min_length=1, max_length=400)]


class Strict(BaseModel):
    """A frozen value that refuses unknown fields and silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TensorSpec(Strict):
    """One trained tensor: its name in the PEFT state, its shape, how far one round may move it, its step size."""

    name: Text
    shape: tuple[Positive, ...] = Field(strict=False, min_length=1, max_length=4)
    update_range: Range  # R: each coordinate of a round's update is clipped to [-R, R] before rounding
    learning_rate: PositiveReal

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return math.prod(self.shape)


class ModelPin(Strict):
    """A Hugging Face model: where it is found, and what exactly it must be."""

    source: Text  # a hub id, or the name of a local folder the silo's configuration maps
    revision: str | None
    weights_sha256: Hex32  # of the weights, configuration and tokenizer files (runtime/models.py says how)


class Adapter(Strict):
    """What trains on the frozen base, in the order in which it is flattened."""

    method: Literal["ffa-lora", "lora", "bitfit", "norm", "prompt", "prefix", "head"]
    rank: Annotated[int, Field(ge=0, le=256)]
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    rank_stabilised: bool = False  # LoRA's product is scaled by alpha / sqrt(rank) instead of alpha / rank
    target_modules: tuple[Text, ...] = Field(strict=False)
    virtual_tokens: Annotated[int, Field(ge=0, le=1024)] = 0  # of a prompt or prefix
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(strict=False)
    head: Literal["model", "mean-pooled-normalised", "none"]
    initial_sha256: Hex32  # of the safetensors bytes with the starting values, FFA's fixed A and the normaliser
    tensors: tuple[TensorSpec, ...] = Field(strict=False, min_length=1, max_length=4096)

    @property
    def size(self) -> int:
        """The number of trained values."""
        return sum(tensor.size for tensor in self.tensors)


class ModelTask(Strict):
    """What trains a model, on texts of at most so many tokens."""

    max_tokens: Annotated[int, Field(gt=0, le=8192)]
    model: ModelPin
    adapter: Adapter


class Classification(ModelTask):
    """Sequence classification of one text per record."""

    kind: Literal["sequence-classification"]
    labels: tuple[Text, ...] = Field(strict=False, min_length=2, max_length=1000)


class TokenClassification(ModelTask):
    """A class for each word of a record's text."""

    kind: Literal["token-classification"]
    labels: tuple[Text, ...] = Field(strict=False, min_length=2, max_length=1000)


class LanguageModelling(ModelTask):
    """The next token of a record's response, after its prompt; a record's loss is the mean over its response."""

    kind: Literal["causal-language-modelling"]

    @property
    def labels(self) -> tuple[str, ...]:
        """None: the model's own vocabulary."""
        return ()


TrainedTask = Classification | TokenClassification | LanguageModelling
HEADS: dict[str, tuple[str, ...]] = {
    "sequence-classification": ("model", "mean-pooled-normalised"),
    "token-classification": ("model",),
    "causal-language-modelling": ("none",),
}
"""The heads that a kind of task may have: "none" is the model's own, frozen."""


class Rehearsal(Strict):
    """No data, no model, no budget: every silo sends pseudo-random values, to try the machinery (`bench`)."""

    kind: Literal["rehearsal"]
    values: Annotated[int, Field(gt=0, le=MAX_VALUES)]
    update_range: Range


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


class JobPlan(Strict):
    """Everything a job fixes in advance and in public."""

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
    created_utc: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
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

    def encode(self) -> bytes:
        """The plan's canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> bytes:
        """32 bytes that name this job."""
        return digest(PLAN_LABEL, self.encode())

    @classmethod
    def decode(cls, data: bytes) -> "JobPlan":
        """Parse and validate canonical bytes. Raises ProtocolError naming the field that is wrong."""
        value = parse_canonical(data, "job plan")
        try:
            plan = cls.model_validate(value)
        except ValidationError as error:
            raise ProtocolError(
                "job plan", first_complaint(error), "Correct the job file and submit it again."
            ) from error
        if plan.encode() != data:
            raise ProtocolError("job plan", "fields are missing or in another form", "Encode every field.")
        return plan


def first_complaint(error: ValidationError) -> str:
    """The first of pydantic's complaints as one sentence, without the offending value."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {sentence(first)}" if where else sentence(first)


def sentence(details: ErrorDetails) -> str:
    """What pydantic complains about; of an error that a validator of ours raised, our words alone."""
    return details["msg"].removeprefix("Value error, ")


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
