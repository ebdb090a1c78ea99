"""The X.509 profile: what each kind of certificate and request looks like, and nothing else.

| kind | key | lasts | extended key usage | names |
|---|---|---|---|---|
| CA | P-256 | 10 years | - (pathlen 0) | O = federation |
| TLS leaf | P-256 | 30 days | serverAuth (aggregators), clientAuth (all others) | URI SAN; aggregators also DNS, IP |
| identity | Ed25519 | 2 years | documentSigning (RFC 9336) | URI SAN |

An identity certificate has an extended key usage without the two TLS purposes, so that no TLS stack takes it
(RFC 5280, 4.2.1.12). Ed25519 TLS leaves fail under grpcio with NO_COMMON_SIGNATURE_ALGORITHMS: hence P-256.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from certs.names import PartyId, Role
from certs.times import utc
from privacy.errors import ConfigError

CA_LIFETIME = timedelta(days=3650)
TLS_LIFETIME = timedelta(days=30)
IDENTITY_LIFETIME = timedelta(days=730)
BACKDATE = timedelta(minutes=10)  # so that a clock a little behind the CA's accepts a fresh certificate
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # id-kp-documentSigning, RFC 9336

PrivateKey = EllipticCurvePrivateKey | Ed25519PrivateKey


@dataclass(frozen=True)
class Issuer:
    """A CA's certificate and the key that signs for it."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    def __repr__(self) -> str:
        """Nothing of the key."""
        return "Issuer(...)"


def tls_usage(role: Role) -> ObjectIdentifier:
    """The one TLS purpose of a role: aggregators listen, all others dial."""
    return ExtendedKeyUsageOID.SERVER_AUTH if role is Role.AGGREGATOR else ExtendedKeyUsageOID.CLIENT_AUTH


def is_p256(key: object) -> bool:
    """Whether `key` is a P-256 public or private key."""
    return isinstance(key, EllipticCurvePublicKey | EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)


def private_pem(key: PrivateKey) -> bytes:
    """PKCS #8, unencrypted: for a file of mode 0600 and nowhere else."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ca_certificate(key: EllipticCurvePrivateKey, federation: str, now: datetime) -> x509.Certificate:
    """A self-signed CA certificate for one federation."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, "Cloister federation CA"),
        ]
    )
    start = utc(now)
    builder = _builder(subject, subject, key.public_key(), start - BACKDATE, start + CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def tls_certificate(
    issuer: Issuer, key: EllipticCurvePublicKey, party: PartyId, hosts: Sequence[str], now: datetime
) -> x509.Certificate:
    """A short-lived TLS leaf. `hosts` (DNS names or IP addresses) are for aggregators only: ConfigError otherwise."""
    if hosts and party.role is not Role.AGGREGATOR:
        raise ConfigError(
            f"host names for {party.uri}", "only an aggregator listens", "Leave out the host names and addresses."
        )
    if party.role is Role.AGGREGATOR and not hosts:
        raise ConfigError(
            f"certificate for {party.uri}",
            "an aggregator's certificate must carry the host names that silos dial",
            "Name them with --host, once for every DNS name and IP address.",
        )
    names = [x509.UniformResourceIdentifier(party.uri), *(_host(host) for host in hosts)]
    return _leaf(issuer, key, party, names, tls_usage(party.role), utc(now), TLS_LIFETIME)


def identity_certificate(issuer: Issuer, key: Ed25519PublicKey, party: PartyId, now: datetime) -> x509.Certificate:
    """A longer-lived certificate for the key that signs headers, consents and ledgers; of no use in TLS."""
    names = [x509.UniformResourceIdentifier(party.uri)]
    return _leaf(issuer, key, party, names, DOCUMENT_SIGNING, utc(now), IDENTITY_LIFETIME)


def signing_request(key: PrivateKey, party: PartyId) -> x509.CertificateSigningRequest:
    """A request for `party`'s certificate on this key. The CA decides the name; this one only has to agree."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(party.uri)])
    builder = builder.add_extension(names, critical=True)
    return builder.sign(key, None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256())


def revocation_list(issuer: Issuer, revoked: dict[int, datetime], now: datetime) -> x509.CertificateRevocationList:
    """The CA's list of revoked serial numbers.

    It is read from the aggregator's own disk, never fetched, so `nextUpdate` is the CA's own end: a federation whose CA
    is offline must not stop because a list grew old.
    """
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(utc(now)).next_update(issuer.certificate.not_valid_after_utc)
    for serial, moment in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(utc(moment)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256())


def _leaf(
    issuer: Issuer,
    key: EllipticCurvePublicKey | Ed25519PublicKey,
    party: PartyId,
    names: Sequence[x509.GeneralName],
    usage: ObjectIdentifier,
    start: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, party.federation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, party.role),
            x509.NameAttribute(NameOID.COMMON_NAME, party.name),
        ]
    )
    end = min(start + lifetime, issuer.certificate.not_valid_after_utc)
    if end <= start:
        raise ConfigError("the CA certificate", "has expired", "Found the federation anew with `cloister certs init`.")
    builder = _builder(subject, issuer.certificate.subject, key, start - BACKDATE, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    builder = builder.add_extension(authority, critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePublicKey | Ed25519PublicKey,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not host or not host.isascii() or any(character in host for character in " /:@*"):
        raise ConfigError(
            f"host {host!r}", "is neither a DNS name nor an IP address", "Give it without scheme, port or wildcard."
        )
    return x509.DNSName(host)
