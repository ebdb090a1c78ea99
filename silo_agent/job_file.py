"""The job file an ML engineer writes (TOML): docs/reference/job-file.md says every key."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.accounting import LEAST_NOISE, LEAST_PROBABILITY, MAX_COUNT, MOST_NOISE
from privacy.fields import Name, Strict, Text
from privacy.mechanism import Metrics
from privacy.plan import Deadlines
from privacy.suites import Suite
from privacy.tasks import HEADS
from privacy.thresholds import MOST_PARTICIPANTS
from silo_agent.choices import OpenTo, ServerChoice, Wanted
from silo_agent.dataset_spec import TaskKind
from silo_agent.normaliser import Normaliser

Real = Annotated[float, Field(gt=0, strict=False, allow_inf_nan=False)]  # TOML's 2 means 2.0
NoiseMultiplier = Annotated[float, Field(ge=LEAST_NOISE, le=MOST_NOISE, strict=False, allow_inf_nan=False)]
MOST_RECORDS = 1e12  # of a dataset: more than there are anywhere


class ModelChoice(Strict):
    """The base model: a Hugging Face id, or the name of a folder that every silo's configuration maps."""

    source: Text
    revision: Text | None = None


class TaskChoice(Strict):
    """A class for each record's text or for each of its words, or the response that follows a text."""

    kind: TaskKind = "sequence-classification"
    labels: tuple[Text, ...] = Field(default=(), strict=False, max_length=1000)
    max_tokens: Annotated[int, Field(gt=0, le=8192)] = 128

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if (self.kind == "causal-language-modelling") != (not self.labels) or len(self.labels) == 1:
            raise ValueError(f"task.labels: {self.kind} takes {'none' if self.labels else 'two or more'}")
        return self


# The keys of [adapter] that are about the model's body; which of them a method needs, and which it may take.
OF_BODY = ("rank", "alpha", "rank_stabilised", "target_modules", "virtual_tokens", "layers", "body_learning_rate")
_LORA, _PART = {"rank", "alpha", "target_modules", "body_learning_rate"}, {"target_modules", "body_learning_rate"}
_TOKENS = {"virtual_tokens", "body_learning_rate"}
NEEDS: dict[str, set[str]] = {
    "ffa-lora": _LORA,
    "lora": _LORA,
    "bitfit": _PART,
    "norm": _PART,
    "prompt": _TOKENS,
    "prefix": _TOKENS,
    "head": set(),
}
TAKES = {method: keys | {"layers"} if "target_modules" in keys else keys for method, keys in NEEDS.items()}
TAKES |= {method: TAKES[method] | {"rank_stabilised"} for method in ("ffa-lora", "lora")}


def _listed(keys: set[str], word: str = "and") -> str:
    """`rank, alpha and layers`, in the job file's order."""
    *most, last = [key for key in OF_BODY if key in keys]
    return f"{', '.join(most)} {word} {last}" if most else last


class AdapterChoice(Strict):
    """What trains beside the head (silo_agent.adapters says what the methods are), and how far each step goes."""

    method: Literal["ffa-lora", "lora", "bitfit", "norm", "prompt", "prefix", "head"]
    rank: Annotated[int, Field(ge=0, le=256)] = 0
    alpha: Annotated[float, Field(ge=0, strict=False, allow_inf_nan=False)] = 0.0
    rank_stabilised: bool = False
    target_modules: tuple[Text, ...] = Field(default=(), strict=False)
    virtual_tokens: Annotated[int, Field(ge=0, le=1024)] = 0
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), strict=False)
    head: Literal["model", "mean-pooled-normalised", "none"] = "mean-pooled-normalised"
    head_learning_rate: Real | None = None
    body_learning_rate: Real | None = None
    seed: Annotated[int, Field(ge=0)] | None = None  # of LoRA's random A; fresh from the operating system if absent

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed, taken = NEEDS[self.method], TAKES[self.method]
        if (self.head == "none") != (self.head_learning_rate is None):
            raise ValueError(
                f'head = "{self.head}" {"takes no" if self.head == "none" else "needs a"} head_learning_rate'
            )
        if self.head == "none" and self.method == "head":
            raise ValueError('method "head" with head = "none" would train nothing')
        if not all(getattr(self, name) for name in needed):
            raise ValueError(f"{self.method} needs {_listed(needed)}")
        if any(getattr(self, name) for name in OF_BODY if name not in taken):
            raise ValueError(f"method {self.method} takes no {_listed(set(OF_BODY) - taken, 'or')}")
        return self


class PrivacyChoice(Strict):
    """DP-SGD at each silo: a target epsilon over all rounds, or the noise multiplier itself."""

    epsilon: Real | None = None
    noise_multiplier: NoiseMultiplier | None = None
    delta: Annotated[float, Field(gt=0, lt=0.1)]
    clip_l2: Real
    sampling_rate: Annotated[float, Field(ge=LEAST_PROBABILITY, le=1, strict=False)]
    steps_per_round: Annotated[int, Field(gt=0, le=MAX_COUNT)]
    expected_batch_size: Real
    unit: Literal["record", "patient"]
    proximal: Annotated[float, Field(ge=0, strict=False, allow_inf_nan=False)] = 0.0
    noise: Literal["local", "shared"] = "local"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("dp takes either epsilon or noise_multiplier")
        if self.expected_batch_size > MOST_RECORDS * self.sampling_rate:
            raise ValueError(
                f"dp.expected_batch_size is {self.expected_batch_size:g}: at sampling_rate = {self.sampling_rate:g} it "
                f"takes a dataset of more than {MOST_RECORDS:g} records"
            )
        return self


class MetricsChoice(Strict):
    """[metrics]: validation figures that every round publishes, from the silos' held-out parts, noised and charged."""

    noise_multiplier: NoiseMultiplier
    loss_bound: Real = 4.0
    most_units: Annotated[int, Field(gt=0, le=10_000_000)] = 2_000

    def fixed(self) -> Metrics:
        """As the plan writes them."""
        return Metrics(**self.model_dump())


class CohortChoice(Strict):
    """How few silos may go on, how many are taken to collude, how small a dataset may be."""

    minimum: Annotated[int, Field(ge=2, le=MOST_PARTICIPANTS)]
    tolerated_colluders: Annotated[int, Field(ge=0)] | None = None  # what is usual for the suite if absent
    minimum_dataset_size: Annotated[int, Field(ge=1)]


class DeadlineChoice(Strict):
    """Seconds from the moment a step opens until the aggregator goes on without the silent."""

    join_job_s: Real = 86_400.0
    join_round_s: Real = 3_600.0
    submit_s: Real = 3_600.0
    consent_s: Real = 600.0
    apply_s: Real = 600.0

    def fixed(self) -> Deadlines:
        """As the plan writes them."""
        return Deadlines(**self.model_dump())


class JobFile(Strict):
    """Everything a coordinator chooses; roster, digests, ranges and noise are worked out from it."""

    name: Name
    federation: Name
    purpose: Text
    rounds: Annotated[int, Field(gt=0, le=10_000)]
    round_attempts: Annotated[int, Field(gt=0, le=20_000)] | None = None  # twice the rounds if absent
    suite: Annotated[Suite, Field(strict=False)] | None = None  # ckks-multikey from four silos up if absent
    parameters: Text | None = None  # the suite's set with the fewest bytes if absent
    open_to: OpenTo = "silos"
    grid_bits: Annotated[int, Field(ge=8, le=16)] = 16
    model: ModelChoice
    task: TaskChoice
    adapter: AdapterChoice
    normaliser: Normaliser | None = None
    dp: PrivacyChoice
    metrics: MetricsChoice | None = None
    server: ServerChoice = Field(default_factory=ServerChoice)
    cohort: CohortChoice
    deadlines: DeadlineChoice = Field(default_factory=DeadlineChoice)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.adapter.head not in HEADS[self.task.kind]:
            allowed = " or ".join(f'"{head}"' for head in HEADS[self.task.kind])
            raise ValueError(f"adapter.head for {self.task.kind} is {allowed}")
        normalised = self.adapter.head == "mean-pooled-normalised"
        if normalised != (self.normaliser is not None):
            need = "needs a [normaliser]" if normalised else "takes no [normaliser]"
            raise ValueError(f'adapter.head = "{self.adapter.head}" {need}')
        steps = self.rounds * self.dp.steps_per_round
        if self.dp.epsilon is not None and steps > MAX_COUNT:
            raise ValueError(
                f"dp.steps_per_round is {self.dp.steps_per_round}: with rounds = {self.rounds} these are {steps} steps "
                f"in all, and noise for an epsilon is found for at most {MAX_COUNT}"
            )
        return self

    @property
    def wanted(self) -> Wanted:
        """What it says, and leaves open, about suite and cohort."""
        cohort = self.cohort
        return Wanted(self.suite, self.parameters, cohort.tolerated_colluders, cohort.minimum, self.grid_bits)
