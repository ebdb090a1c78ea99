"""aggregator.toml, and what lies where in the state folder (docs/reference/aggregator-config.md)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.config import Address, load_config

ENV_PREFIX = "CLOISTER_AGGREGATOR"
CONFIG_FILE = "aggregator.toml"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(gt=0)]


class AggregatorConfig(BaseModel):
    """The aggregator's settings. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: str
    name: str = "aggregator"
    listen: Address = "127.0.0.1:7443"
    enrolment_listen: Address = "127.0.0.1:7444"
    public_address: Address | None = None  # what silos dial; `listen` if left out
    enrolment_public_address: Address | None = None
    database: str | None = None  # an SQLAlchemy URL; aggregator.db in the state folder if left out
    metrics_port: Port = 0  # 0: off
    restart_grace_s: Seconds = 30.0
    keep_finished_s: Seconds = 30 * 86_400.0
    max_artifact_bytes: Count = 256 << 20
    workers: Annotated[int, Field(ge=16, le=1024)] = 128  # threads that answer calls; every connected silo holds one
    uploads_at_once: Count = 4  # updates read at the same time; each costs some ten megabytes of memory
    upload_stall_s: Annotated[float, Field(gt=0)] = 20.0  # an upload that stands still so long makes room for others
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True)
class StateFolder:
    """Paths of an aggregator's state folder."""

    root: Path

    @property
    def config(self) -> Path:
        """aggregator.toml."""
        return self.root / CONFIG_FILE

    @property
    def ca(self) -> Path:
        """The CA's folder; without its key when the CA is kept offline."""
        return self.root / "ca"

    @property
    def queue(self) -> Path:
        """Requests for an offline CA."""
        return self.root / "ca-queue"

    @property
    def wallet(self) -> Path:
        """The aggregator's own keys and certificates."""
        return self.root / "wallet"

    @property
    def coordinator(self) -> Path:
        """The coordinator's wallet."""
        return self.root / "coordinator"

    @property
    def database(self) -> Path:
        """The SQLite file, unless the configuration names a database."""
        return self.root / "aggregator.db"

    @property
    def blobs(self) -> Path:
        """Staged updates, sums, starting adapters."""
        return self.root / "blobs"

    @property
    def ready(self) -> Path:
        """There while the aggregator answers; holds its address."""
        return self.root / "ready"

    def load(self) -> AggregatorConfig:
        """The configuration. Raises ConfigError naming file, key and what to do."""
        return load_config(AggregatorConfig, self.config, ENV_PREFIX, os.environ)
