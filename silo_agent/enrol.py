"""Enrolment: a token in, a state folder with a wallet and a silo.toml out. May be interrupted and repeated.

Keys are made here and stay here; only requests are sent, over TLS whose server proves itself with the CA out of the
token. What comes back is checked against that CA, our own keys and the invited name before anything is put in place.
"""

import json
import os
from datetime import datetime
from pathlib import Path

from cloister import wire
from cloister.v1 import enrolment_pb2_grpc
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from certs.identity import fingerprint
from certs.invitation import Invitation
from certs.names import PartyId, Role
from certs.requests import CertificateRequests, IssuedCertificates
from certs.verify import check_identity_certificate
from certs.wallet import Wallet
from privacy.errors import ConfigError, ProtocolError, Unavailable
from runtime.channels import open_enrolment_channel, split_address
from runtime.files import private_folder, write_durably
from runtime.status import peer_call
from silo_agent.entries import Author, key_entry
from silo_agent.home import CONFIG, Home
from silo_agent.peers import check_aggregator, trust_first_aggregator, trusted_peers
from silo_agent.store import DATABASE, Transaction

CALL_S = 30.0
ATTEMPTS = 4
PENDING = "aggregator.pem"  # whom to pin; there until it is pinned


def enrol(token: str, folder: Path, aggregator: str | None, now: datetime) -> Home:
    """Enrol with a token into a state folder; repeat it after an interruption, with the same token.

    `aggregator` is host:port to dial instead of what the aggregator says. Raises ConfigError for a damaged or expired
    token or a folder in use, Refused for a used token or an aggregator that is not the pinned one, Unavailable while
    the aggregator is away.
    """
    invitation = invitation_of(token, now)
    private_folder(folder)
    wallet, pending = Wallet(folder / "wallet"), folder / PENDING
    _check_ledger_has_its_key(folder, wallet)
    if not (pending.exists() and wallet.enrolled and not (wallet.folder / "tls.csr").exists()):
        wallet = Wallet.create(wallet.folder, invitation.ca_pem, invitation.party)
        answer = ask(invitation, wallet.requests())
        name, key = checked_aggregator(answer.aggregator_identity_pem, invitation, now)
        _check_pinned(folder, name, key)
        _write_config(folder / CONFIG, invitation, aggregator or answer.aggregator_address)
        write_durably(pending, answer.aggregator_identity_pem)
        party = wallet.install(IssuedCertificates(answer.tls_certificate_pem, answer.identity_certificate_pem), now)
        if party != invitation.party:
            raise ProtocolError("issued certificates", f"name {party.uri}", f"Ask the coordinator: {invitation.party}.")
    name, key = checked_aggregator(pending.read_bytes(), invitation, now)
    home = Home.open(folder, {})
    with home.store.writing() as tx:
        known = (Role.AGGREGATOR, name) in trusted_peers(tx.connection)
        trust_first_aggregator(tx.connection, name, fingerprint(key), now)
        if not known:
            _note_keys(tx, home, PartyId(home.settings.federation, Role.AGGREGATOR, name), key, now)
    pending.unlink()
    return home


def invitation_of(token: str, now: datetime) -> Invitation:
    """What a silo's token says. Raises ConfigError for one that is damaged, expired or of another role."""
    invitation = Invitation.decode(token)
    invitation.check_time(now)
    if invitation.party.role is not Role.SILO:
        raise ConfigError(
            "invitation token", f"invites {invitation.party.uri}, which is no silo", "Ask for a token of role silo."
        )
    return invitation


def _check_ledger_has_its_key(folder: Path, wallet: Wallet) -> None:
    """Raises ConfigError for a ledger whose wallet is gone, before the token is spent on keys it would not take."""
    if (folder / DATABASE).exists() and not wallet.enrolled:
        raise ConfigError(
            f"state folder {folder}",
            f"holds a ledger ({DATABASE}), and the wallet with its key is gone",
            "Put the wallet folder back. If it is lost, enrol under a new name: docs/how-to/rotate-certificates.md.",
        )


def _note_keys(tx: Transaction, home: Home, aggregator: PartyId, key: bytes, now: datetime) -> None:
    """The ledger begins with the key that signs it and with the aggregator's."""
    by, own = Author(home.name, "enrolment", "agent", now), home.identity
    tx.record(key_entry(by, "own", own.party.uri, fingerprint(own.public_key), "enrolled"))
    tx.record(key_entry(by, "pinned", aggregator.uri, fingerprint(key), "certified by the CA of the invitation"))
    tx.ledger.checkpoint(own.sign, now)


def ask(invitation: Invitation, requests: CertificateRequests) -> wire.EnrolledCertificates:
    """Redeem an invitation. Raises Refused, ProtocolError, Unavailable after ATTEMPTS."""
    request = wire.EnrolRequest(
        secret=invitation.secret, tls_csr_pem=requests.tls, identity_csr_pem=requests.identity
    ).encode()
    channel = open_enrolment_channel(invitation.address, invitation.ca_pem)

    def send() -> wire.EnrolledCertificates:
        with peer_call(f"enrolling at {invitation.address}"):
            stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
            return wire.EnrolledCertificates.decode(stub.Enrol(request, timeout=CALL_S))

    try:
        return Retrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.3, max=3.0),
            reraise=True,
        )(send)
    finally:
        channel.close()


def checked_aggregator(identity_pem: bytes, invitation: Invitation, now: datetime) -> tuple[str, bytes]:
    """Name and identity key of the aggregator, by a certificate of the token's CA. Raises ProtocolError."""
    party, key = check_identity_certificate(identity_pem, invitation.ca_pem, now)
    if party.role is not Role.AGGREGATOR:
        raise ProtocolError("the aggregator's identity", f"is that of {party.uri}", "Ask the coordinator.")
    return party.name, key


def _check_pinned(folder: Path, name: str, key: bytes) -> None:
    """A silo that enrols again keeps its aggregator. Raises Refused before anything of the answer is put in place."""
    if not (folder / CONFIG).exists() or not Wallet(folder / "wallet").enrolled:
        return
    home = Home.open(folder, {})
    try:
        with home.store.reading() as connection:
            check_aggregator(connection, name, fingerprint(key))
    finally:
        home.store.close()


def _write_config(path: Path, invitation: Invitation, aggregator: str) -> None:
    split_address(aggregator)
    if path.exists():
        return
    lines = [
        "# One silo of a Cloister federation. Every key: docs/reference/silo-config.md",
        f"name = {json.dumps(invitation.party.name)}",
        f"federation = {json.dumps(invitation.party.federation)}",
        f"aggregator = {json.dumps(aggregator)}",
    ]
    write_durably(path, ("\n".join(lines) + os.linesep).encode())
