"""The federation's certificate authority: one P-256 key in a folder of its own.

Whoever holds this folder decides who is who. Online at the aggregator it is a stated trust assumption; offline, the
requests come in a queue (`certs.queue`). Silos pin one another's identity keys either way, so that a CA that lies
can keep parties out but cannot put an invented silo into a cohort unseen.

    ca.key  0600, PKCS #8        ca.pem         the certificate, to be given to everybody
    crl.pem revoked serials      registry.json  what was issued
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certs.files import PUBLIC, private_folder, read_file, read_private, write_durably
from certs.names import PartyId, Role
from certs.profile import (
    TLS_LIFETIME,
    Issuer,
    ca_certificate,
    identity_certificate,
    private_pem,
    revocation_list,
    tls_certificate,
)
from certs.registry import Entry, Register, RegistryFile
from certs.requests import IssuedCertificates, request_for_identity, request_for_tls
from certs.times import utc
from certs.verify import Kind, federation_of, load_ca
from privacy.errors import ConfigError, Refused

MOST_YOUNG = 20  # leaves of one party with more than half of their life left
_NO_CA = "Name the folder that `cloister certs init` made."


class CertificateAuthority:
    """Signs, renews and revokes. Every certificate is in the register, durably, before it is handed out."""

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self.folder = folder
        self._issuer = issuer
        self._registry = RegistryFile(folder / "registry.json")

    @classmethod
    def create(cls, folder: Path, federation: str, now: datetime) -> Self:
        """Found a federation. Raises ConfigError when the folder already holds a CA, or for a bad federation name."""
        PartyId(federation, Role.AUDITOR, "any")  # refuses a bad name
        private_folder(folder)
        if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
            raise ConfigError(
                f"CA folder {folder}",
                "already holds a certificate authority",
                "Choose an empty folder; a new CA would cut off everybody who trusts the old one.",
            )
        key = generate_private_key(SECP256R1())
        authority = cls(folder, Issuer(ca_certificate(key, federation, now), key))
        authority._registry.write(Register())
        authority._write_crl(Register(), now)
        write_durably(folder / "ca.key", private_pem(key))
        write_durably(folder / "ca.pem", authority.ca_pem, PUBLIC)
        return authority

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a CA. Raises ConfigError when files are missing, readable by others, or do not belong together."""
        certificate = load_ca(read_file(folder / "ca.pem", _NO_CA))
        try:
            key = load_pem_private_key(read_private(folder / "ca.key", _NO_CA), None)
        except ValueError as error:
            raise ConfigError(f"CA key {folder / 'ca.key'}", "is damaged", "Restore it from a backup.") from error
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(
                f"CA folder {folder}", "ca.key and ca.pem do not belong together", "Restore both from one backup."
            )
        return cls(folder, Issuer(certificate, key))

    @property
    def federation(self) -> str:
        """The federation's name."""
        return federation_of(self._issuer.certificate)

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate, which every party keeps."""
        return self._issuer.certificate.public_bytes(Encoding.PEM)

    def sign_tls(self, csr: bytes, party: PartyId, now: datetime, hosts: Sequence[str] = ()) -> bytes:
        """A TLS leaf for `party`; `hosts` (DNS names, IP addresses) for aggregators only, by default those of its last.

        Raises ProtocolError for a bad request; Refused for a silo with an aggregator's name, and the other way round.
        """
        self._check_member(party)
        hosts = hosts or self.hosts(party)
        certificate = tls_certificate(self._issuer, request_for_tls(csr, party), party, hosts, now)
        return self._record(certificate, party, Kind.TLS, now, tuple(hosts))

    def sign_identity(self, csr: bytes, party: PartyId, now: datetime) -> bytes:
        """An identity certificate for `party`. Raises as `sign_tls`."""
        self._check_member(party)
        certificate = identity_certificate(self._issuer, request_for_identity(csr, party), party, now)
        return self._record(certificate, party, Kind.IDENTITY, now, ())

    def issue(
        self, party: PartyId, tls_csr: bytes, identity_csr: bytes, now: datetime, hosts: Sequence[str] = ()
    ) -> IssuedCertificates:
        """Both certificates of a new party; neither is signed unless both requests are good. Raises as `sign_tls`."""
        request_for_tls(tls_csr, party)
        request_for_identity(identity_csr, party)
        return IssuedCertificates(
            self.sign_tls(tls_csr, party, now, hosts), self.sign_identity(identity_csr, party, now)
        )

    def renew(self, party: PartyId, csr: bytes, now: datetime) -> bytes:
        """A fresh TLS leaf, with the host names of the last one.

        Raises Refused unless `party` is in good standing, which no revocation can change meanwhile, and when it holds
        MOST_YOUNG leaves already: some, since an answer may be lost, but not without end.
        """
        self._check_member(party)
        with self._registry.change() as register:
            register.drop_expired(utc(now))
            _check_renewal(register, party, utc(now))
            hosts = register.hosts.get(party.uri, ())
            certificate = tls_certificate(self._issuer, request_for_tls(csr, party), party, hosts, now)
            register.enter(_entry(certificate, party, Kind.TLS), hosts)
        return certificate.public_bytes(Encoding.PEM)

    def revoke(self, party: PartyId, now: datetime) -> int:
        """Revoke everything `party` holds and write the new crl.pem. Returns the number of certificates.

        Raises ConfigError when it holds nothing: a mistyped name must not look like a success.
        """
        with self._registry.change() as register:
            count = register.revoke(party, utc(now))
            if not count:
                raise ConfigError(
                    f"revoking {party.uri}",
                    "it holds no certificate that is still good",
                    f"Look up the names with `cloister certs show {self.folder}`.",
                )
            self._write_crl(register, now)  # before the register: a crash in between is mended by revoking again
        return count

    def crl(self, now: datetime) -> bytes:
        """The signed revocation list of this moment, PEM."""
        return revocation_list(self._issuer, self._registry.read().revoked(), now).public_bytes(Encoding.PEM)

    def knows(self, party: PartyId) -> bool:
        """Whether `party` was given anything that has not expired, revoked or not."""
        return self._registry.read().knows(party)

    def hosts(self, party: PartyId) -> tuple[str, ...]:
        """The host names last certified for an aggregator."""
        return tuple(self._registry.read().hosts.get(party.uri, ()))

    def issued(self) -> tuple[Entry, ...]:
        """What the register holds, oldest first."""
        return tuple(self._registry.read().entries)

    def _check_member(self, party: PartyId) -> None:
        if party.federation != self.federation:
            raise ConfigError(
                f"certificate for {party.uri}",
                f"this is the CA of federation {self.federation}",
                "Use that federation's own CA folder.",
            )

    def _record(
        self, certificate: x509.Certificate, party: PartyId, kind: Kind, now: datetime, hosts: tuple[str, ...]
    ) -> bytes:
        with self._registry.change() as register:
            register.drop_expired(utc(now))
            _check_one_ledger(register, party)
            register.enter(_entry(certificate, party, kind), hosts)
        return certificate.public_bytes(Encoding.PEM)

    def _write_crl(self, register: Register, now: datetime) -> None:
        crl = revocation_list(self._issuer, register.revoked(), now)
        write_durably(self.folder / "crl.pem", crl.public_bytes(Encoding.PEM), PUBLIC)


def _entry(certificate: x509.Certificate, party: PartyId, kind: Kind) -> Entry:
    return Entry(certificate.serial_number, party.uri, kind, certificate.not_valid_after_utc, None)


def _check_one_ledger(register: Register, party: PartyId) -> None:
    """Silos and aggregators keep ledgers, which go by their names alone (privacy.ledger.checkpoint.log_origin)."""
    other = {Role.SILO: Role.AGGREGATOR, Role.AGGREGATOR: Role.SILO}.get(party.role)
    if other is None:
        return
    namesake = PartyId(party.federation, other, party.name)
    if register.knows(namesake):
        why = f"{namesake.uri} has that name, and a ledger goes by its name alone"
        raise Refused(f"certificate for {party.uri}", why, "Choose another name.")


def _check_renewal(register: Register, party: PartyId, now: datetime) -> None:
    if not register.in_good_standing(party):
        raise Refused(
            f"renewal for {party.uri}",
            "it holds no valid identity certificate of this CA: none was issued, or it expired or was revoked",
            "Enrol it again with a fresh invitation.",
        )
    young = register.live_tls(party, beyond=now + TLS_LIFETIME / 2)
    if young >= MOST_YOUNG:
        raise Refused(
            f"renewal for {party.uri}",
            f"it was given {young} TLS certificates that are not half through their life",
            "Use the newest. If it has none of them, find out who asked, and enrol it again with a fresh invitation.",
        )
