"""silo.toml: what a silo's operator and steward say (docs/reference/silo-config.md)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.fields import Name, PositiveReal, Strict, Text
from runtime.config import Address

Device = Literal["auto", "cpu", "cuda"]
Frozen = Literal["auto", "float32", "bfloat16"]
Port = Annotated[int, Field(ge=0, le=65535)]


class ModelFolder(Strict):
    """Where a model that plans name by a source lies on this machine."""

    folder: Path = Field(strict=False)


class ModelHub(Strict):
    """Which models the silo may fetch from the Hugging Face hub because a plan names them. None by default."""

    allow: tuple[Text, ...] = Field(default=(), strict=False)


class Policy(Strict):
    """What the daemon may decide without a steward. Nothing by default."""

    rehearsals: bool = False  # take part in rehearsals, which touch no data and no budget
    auto_approve: bool = False  # take part in jobs within all of the limits below, on `dataset`
    dataset: Name | None = None
    max_epsilon_per_job: PositiveReal | None = None  # at the budget's delta, of all rounds that are granted
    extra_rounds: Annotated[int, Field(ge=0, le=10_000)] = 0  # granted beyond the plan's, for rounds that fail
    purposes: tuple[Text, ...] = Field(default=(), strict=False)  # none: any purpose
    shared_noise: bool = False  # also jobs whose promise needs other members of each sum to be honest

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.auto_approve and (self.dataset is None or self.max_epsilon_per_job is None):
            raise ValueError("policy.auto_approve needs policy.dataset and policy.max_epsilon_per_job")
        return self


class Witnesses(Strict):
    """Who has to confirm that this silo's state is its newest before it takes part in anything."""

    quorum: Annotated[int, Field(ge=0, le=100)] = 0  # cosignatures since the agent started
    every_s: Annotated[float, Field(ge=1, le=3600, strict=False)] = 30.0  # between two exchanges of checkpoints


class LedgerSettings(Strict):
    """Of which texts that people write an entry has a commitment alone, so that exports can leave them out."""

    committed: tuple[Literal["actor", "dpia", "legal_basis", "reason"], ...] = Field(default=("actor",), strict=False)


class Activations(Strict):
    """Frozen layers' activations that do not fit into memory: how much of the disk they may take. 0: none."""

    disk_gib: Annotated[int, Field(ge=0, le=100_000)] = 16


class TrainingSettings(Strict):
    """Where training runs (silo_agent.hardware)."""

    device: Device = "auto"
    frozen: Frozen = "auto"


class SiloSettings(Strict):
    """One silo's configuration. Every value can be overridden by an environment variable CLOISTER_SILO_..."""

    name: Name
    federation: Name
    aggregator: Address  # host:port that the silo dials; nothing listens here
    models: dict[Text, ModelFolder] = Field(default_factory=dict)
    models_hub: ModelHub = ModelHub()
    policy: Policy = Policy()
    witnesses: Witnesses = Witnesses()
    ledger: LedgerSettings = LedgerSettings()
    activations: Activations = Activations()
    training: TrainingSettings = TrainingSettings()
    metrics_port: Port = 0  # 0: no metrics; else Prometheus metrics on 127.0.0.1
