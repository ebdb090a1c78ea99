"""A CA, wallets and an invitation store for tests: real keys and certificates, in a temporary folder."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import profile
from certs.ca import CertificateAuthority
from certs.enrolment import StoredInvitation
from certs.names import PartyId, Role
from certs.requests import IssuedCertificates
from certs.verify import CertificateFlaw, Kind, as_protocol_error, load_ca, read_leaf
from certs.wallet import TlsMaterial, Wallet

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
FEDERATION = "heart-study"
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
HOSTS = ("localhost", "127.0.0.1")


def make_ca(folder: Path, now: datetime = NOW, federation: str = FEDERATION) -> CertificateAuthority:
    return CertificateAuthority.create(folder / "ca", federation, now)


def make_wallet(
    ca: CertificateAuthority, folder: Path, role: Role = Role.SILO, name: str = "hospital-a", now: datetime = NOW
) -> Wallet:
    """An enrolled party whose certificates begin at `now`."""
    party = PartyId(ca.federation, role, name)
    wallet = Wallet.create(folder / f"{role}-{name}", ca.ca_pem, party)
    requests = wallet.requests()
    hosts = HOSTS if role is Role.AGGREGATOR else ()
    wallet.install(ca.issue(party, requests.tls, requests.identity, now, hosts), now)
    return wallet


def odd_tls(
    ca: CertificateAuthority, names: Sequence[x509.GeneralName], role: Role = Role.SILO, now: datetime = NOW
) -> TlsMaterial:
    """A TLS leaf for a client as `certs` never makes one: the CA's key signs these names as they are."""
    issuer, key, party = ca._issuer, generate_private_key(SECP256R1()), PartyId(ca.federation, role, "odd")
    leaf = profile._leaf(issuer, key.public_key(), party, names, CLIENT_AUTH, now, profile.TLS_LIFETIME)
    return TlsMaterial(party, now, ca.ca_pem, leaf.public_bytes(Encoding.PEM), profile.private_pem(key))


def check_leaf(pem: bytes, ca_pem: bytes, now: datetime) -> PartyId:
    """The party of a TLS certificate, checked with what the programs check one with."""
    try:
        leaf = read_leaf(pem, load_ca(ca_pem), Kind.TLS)
        leaf.check_time(now)
    except CertificateFlaw as error:
        raise as_protocol_error(f"{Kind.TLS} certificate of a peer", error) from error
    return leaf.party


class MemoryInvitations:
    """The port `certs.enrolment.InvitationStore`, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredInvitation] = {}

    def add(self, invitation: StoredInvitation) -> None:
        self.rows[invitation.secret_sha256] = invitation

    def find(self, secret_sha256: str) -> StoredInvitation | None:
        return self.rows.get(secret_sha256)

    def bind(self, secret_sha256: str, request_sha256: str) -> StoredInvitation:
        row = self.rows[secret_sha256]
        if row.request_sha256 is None:
            row = self.rows[secret_sha256] = replace(row, request_sha256=request_sha256)
        return row

    def settle(self, secret_sha256: str, issued: IssuedCertificates) -> None:
        self.rows[secret_sha256] = replace(self.rows[secret_sha256], issued=issued)
