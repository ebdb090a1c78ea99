"""`cloister aggregator init`: a state folder with a CA, the aggregator's wallet and the coordinator's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aggregator.config import AggregatorConfig, StateFolder
from aggregator.enrolment import enter_member
from aggregator.server import open_store
from aggregator.tables import LEDGER
from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.wallet import Wallet
from privacy.errors import ConfigError
from runtime.channels import split_address
from runtime.files import private_folder, write_durably
from runtime.ledger_store import Ledger, LogIdentity

COORDINATOR = "coordinator"
ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - compared with, never bound


@dataclass(frozen=True)
class Founding:
    """What `init` was asked for."""

    federation: str
    name: str
    listen: str
    enrolment_listen: str
    public_names: Sequence[str]  # DNS names and IP addresses that silos dial


def found(state: StateFolder, founding: Founding, now: datetime) -> AggregatorConfig:
    """Make the folder. Raises ConfigError if it holds an aggregator already, or for a bad name or address."""
    if state.config.exists():
        raise ConfigError(
            f"state folder {state.root}", "holds an aggregator already", "Name another folder, or move this one away."
        )
    hosts = _hosts(founding)
    private_folder(state.root)
    authority = CertificateAuthority.create(state.ca, founding.federation, now)
    _issue(authority, state.wallet, PartyId(founding.federation, Role.AGGREGATOR, founding.name), now, hosts)
    _issue(authority, state.coordinator, PartyId(founding.federation, Role.COORDINATOR, COORDINATOR), now, ())
    write_durably(state.config, _toml(founding).encode())
    config = state.load()
    store = open_store(state, config)
    try:
        for folder in (state.wallet, state.coordinator):
            enter_member(store, Wallet(folder).identity().certificate_pem, authority.ca_pem, now)
        with store.transaction() as tx:
            Ledger.begin(tx.connection, LEDGER, LogIdentity.of(Wallet(state.wallet).identity()))
    finally:
        store.close()
    return config


def _hosts(founding: Founding) -> tuple[str, ...]:
    """The names in the TLS certificate: what silos dial, and loopback for commands on this machine."""
    listening = {split_address(address)[0] for address in (founding.listen, founding.enrolment_listen)}
    if listening & ANY_ADDRESS and not founding.public_names:
        raise ConfigError(
            f"listening on {founding.listen}",
            "is on every address, so the certificate cannot be made from it",
            "Name what silos dial with --public-name, once for every DNS name and IP address.",
        )
    names = [*founding.public_names, *sorted(listening - ANY_ADDRESS), "127.0.0.1", "localhost"]
    return tuple(dict.fromkeys(names))


def _issue(authority: CertificateAuthority, folder: Path, party: PartyId, now: datetime, hosts: Sequence[str]) -> None:
    wallet = Wallet.create(folder, authority.ca_pem, party)
    requests = wallet.requests()
    wallet.install(authority.issue(party, requests.tls, requests.identity, now, hosts), now)


def _toml(founding: Founding) -> str:
    settings = {
        "federation": founding.federation,
        "name": founding.name,
        "listen": founding.listen,
        "enrolment_listen": founding.enrolment_listen,
    }
    if founding.public_names:
        host = founding.public_names[0]
        host = f"[{host}]" if ":" in host else host
        settings["public_address"] = f"{host}:{split_address(founding.listen)[1]}"
        settings["enrolment_public_address"] = f"{host}:{split_address(founding.enrolment_listen)[1]}"
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "# docs/reference/aggregator-config.md explains every setting.\n" + "\n".join(lines) + "\n"
