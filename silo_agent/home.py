"""A silo's state folder, opened: where everything lies. Read once; `silo run` alone holds its lock."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from certs.identity import Identity
from certs.wallet import Wallet
from privacy.errors import ConfigError
from runtime.config import load_config
from runtime.files import private_folder
from silo_agent.outbox import Outbox
from silo_agent.settings import SiloSettings
from silo_agent.store import Store
from silo_agent.vault import Vault

CONFIG = "silo.toml"
ENV_PREFIX = "CLOISTER_SILO"


@dataclass(frozen=True)
class Home:
    """One silo's state folder.

    silo.toml  wallet/  silo.db  vault/  outbox/  artifacts/<job>/  results/<job>/  adapters/<job>/  activations/
    status.json  timings.jsonl  lock
    """

    folder: Path
    settings: SiloSettings

    @classmethod
    def open(cls, folder: Path, environ: Mapping[str, str] = os.environ) -> "Home":
        """Read the configuration and check that it is this wallet's. Raises ConfigError naming what is wrong."""
        if not (folder / CONFIG).exists():
            raise ConfigError(
                f"state folder {folder}",
                f"has no {CONFIG}",
                "Enrol first (`cloister silo enrol --token TOKEN --state FOLDER`), or name another folder.",
            )
        home = cls(folder, load_config(SiloSettings, folder / CONFIG, ENV_PREFIX, environ))
        party = home.identity.party
        if (party.federation, party.name) != (home.settings.federation, home.settings.name):
            raise ConfigError(
                f"configuration {folder / CONFIG}",
                f"says {home.settings.federation}/{home.settings.name}, and the wallet is of {party.uri}",
                "Correct name and federation in it, or enrol into a folder of its own.",
            )
        return home

    @property
    def name(self) -> str:
        """The silo's name in the federation."""
        return self.settings.name

    @property
    def wallet(self) -> Wallet:
        """Keys and certificates."""
        return Wallet(self.folder / "wallet")

    @cached_property
    def identity(self) -> Identity:
        """The signing identity."""
        return self.wallet.identity()

    @cached_property
    def store(self) -> Store:
        """silo.db."""
        return Store.open(self.folder, self.identity, self.settings.ledger.committed)

    @cached_property
    def vault(self) -> Vault:
        """Secrets of running jobs."""
        return Vault(self.folder / "vault")

    @cached_property
    def outbox(self) -> Outbox:
        """Sealed updates."""
        return Outbox(self.folder / "outbox")

    def artifacts(self, job: bytes) -> Path:
        """The folder of a job's starting adapter, global adapters and fetched sums; made if it is not there."""
        return _made(self.folder / "artifacts" / job.hex())

    def results(self, job: bytes) -> Path:
        """The folder of a job's local evaluations, which never leave this machine; made if it is not there."""
        return _made(self.folder / "results" / job.hex())

    @property
    def activations(self) -> Path:
        """The folder of activations that do not fit into memory; they never leave this machine."""
        return self.folder / "activations"

    def model_folders(self) -> dict[str, Path]:
        """Local folders by the source that plans name."""
        return {source: model.folder for source, model in self.settings.models.items()}


def _made(folder: Path) -> Path:
    private_folder(folder)
    return folder
