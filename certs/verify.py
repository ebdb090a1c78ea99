"""Whether a certificate is what it claims: issued by this CA, valid now, of the right kind, naming one party.

Pure: bytes and a moment in, a party out. The public checks raise ProtocolError, since the certificate came from a
peer; `certs.wallet` uses the same checks on a party's own certificates and words them for its operator.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from certs.names import PartyId
from certs.profile import DOCUMENT_SIGNING, is_p256, tls_usage
from certs.times import utc, utc_text
from privacy.errors import CloisterError, ConfigError, ProtocolError

MAX_PEM_BYTES = 16_384
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_MALFORMED = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


class Kind(StrEnum):
    """The two certificates every party has."""

    TLS = "tls"
    IDENTITY = "identity"


class Flaw(StrEnum):
    """Why a certificate is not accepted."""

    UNREADABLE = "unreadable"
    WRONG_CA = "wrong-ca"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    WRONG_KIND = "wrong-kind"
    WRONG_NAME = "wrong-name"


class CertificateFlaw(Exception):  # noqa: N818 - worded as a CloisterError before it leaves this package
    """A certificate was not accepted; `why` completes the sentence 'the certificate ...'."""

    def __init__(self, flaw: Flaw, why: str) -> None:
        super().__init__(why)
        self.flaw = flaw
        self.why = why


@dataclass(frozen=True)
class Leaf:
    """A TLS or identity certificate that this federation's CA issued; time is checked by `check_time`."""

    party: PartyId
    kind: Kind
    serial: int
    not_before_utc: datetime
    not_after_utc: datetime
    public_key: EllipticCurvePublicKey | Ed25519PublicKey

    @property
    def raw_key(self) -> bytes:
        """The key of an identity certificate: Ed25519, 32 bytes."""
        return self.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)

    def check_time(self, now: datetime) -> None:
        """Raises CertificateFlaw outside of the period of validity."""
        if utc(now) < self.not_before_utc:
            why = f"is valid from {utc_text(self.not_before_utc)}, and it is {utc_text(now)} on this machine's clock"
            raise CertificateFlaw(Flaw.NOT_YET_VALID, why)
        if utc(now) > self.not_after_utc:
            why = f"expired at {utc_text(self.not_after_utc)}, and it is {utc_text(now)} on this machine's clock"
            raise CertificateFlaw(Flaw.EXPIRED, why)


def load_ca(ca_pem: bytes) -> x509.Certificate:
    """A federation's CA certificate. Raises ConfigError unless it is one, self-signed, of our profile."""
    try:
        ca = _load(ca_pem)
        ca.verify_directly_issued_by(ca)
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not (constraints.ca and is_p256(ca.public_key()) and federation_of(ca)):
            raise ValueError("not a CA of the profile")  # noqa: TRY301 - one exit for every flaw
    except (CertificateFlaw, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ConfigError(
            "the CA certificate",
            "is not the certificate of a Cloister federation",
            "Take ca.pem from the coordinator, or enrol with a fresh token, which carries it.",
        ) from error
    return ca


def federation_of(ca: x509.Certificate) -> str:
    """The federation that a CA certificate is for; empty when it names none."""
    names = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def read_leaf(pem: bytes, ca: x509.Certificate, kind: Kind) -> Leaf:
    """Check everything but the time. Raises CertificateFlaw."""
    certificate = _load(pem)
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateFlaw(Flaw.WRONG_CA, "was not issued by this federation's CA") from error
    return _leaf(certificate, kind, federation_of(ca))


def read_unvouched(pem: bytes, kind: Kind) -> Leaf:
    """What a certificate says of itself, in the form that ours have. Nobody vouches for it. Raises CertificateFlaw."""
    certificate = _load(pem)
    try:
        return _leaf(certificate, kind, None)
    except _MALFORMED as error:
        raise CertificateFlaw(Flaw.UNREADABLE, "is not in the form of a party's certificate") from error


def _leaf(certificate: x509.Certificate, kind: Kind, federation: str | None) -> Leaf:
    party = _party(certificate, federation)
    return Leaf(
        party,
        kind,
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        _checked_key(certificate, kind, party),
    )


def check_identity_certificate(pem: bytes, ca_pem: bytes, now: datetime) -> tuple[PartyId, bytes]:
    """The party that an identity certificate names, and its raw 32-byte Ed25519 key.

    Raises ProtocolError, which names the party if only the time is wrong.
    """
    whose = "a peer"
    try:
        leaf = read_leaf(pem, load_ca(ca_pem), Kind.IDENTITY)
        whose = leaf.party.uri
        leaf.check_time(now)
    except CertificateFlaw as error:
        raise as_protocol_error(f"{Kind.IDENTITY} certificate of {whose}", error) from error
    return leaf.party, leaf.raw_key


def read_revocations(crl_pem: bytes, ca: x509.Certificate) -> frozenset[int]:
    """The serial numbers that the CA has revoked. Raises ConfigError unless this CA signed the list."""
    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        key = ca.public_key()
        genuine = isinstance(key, EllipticCurvePublicKey) and crl.is_signature_valid(key)
    except ValueError:
        genuine = False
    if not genuine or crl.issuer != ca.subject:
        raise ConfigError(
            "the revocation list",
            "is damaged or was not signed by this federation's CA",
            "Copy crl.pem from the CA's folder again.",
        )
    return frozenset(entry.serial_number for entry in crl)


def as_protocol_error(what: str, error: CertificateFlaw) -> CloisterError:
    """A peer's flaw, worded for us."""
    match error.flaw:
        case Flaw.EXPIRED:
            next_step = "Its owner must enrol again, or have it issued anew (`cloister certs issue`): the key stays."
        case Flaw.NOT_YET_VALID:
            next_step = "Compare the clocks of the two machines."
        case _:
            next_step = "Its owner must enrol in this federation."
    return ProtocolError(what, error.why, next_step)


def _load(pem: bytes) -> x509.Certificate:
    if len(pem) > MAX_PEM_BYTES or pem.count(_BEGIN) != 1:
        raise CertificateFlaw(Flaw.UNREADABLE, "is not one certificate in PEM form")
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateFlaw(Flaw.UNREADABLE, "is not one certificate in PEM form") from error


def _party(certificate: x509.Certificate, federation: str | None) -> PartyId:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise CertificateFlaw(Flaw.WRONG_NAME, "names no party") from error
    if len(uris) != 1:
        raise CertificateFlaw(Flaw.WRONG_NAME, f"names {len(uris)} parties; it must name one")
    try:
        party = PartyId.parse(uris[0])
    except ProtocolError as error:
        raise CertificateFlaw(Flaw.WRONG_NAME, f"names {uris[0][:200]!r}, which is no party") from error
    if federation is not None and party.federation != federation:
        why = f"names federation {party.federation}, and the CA is that of {federation}"
        raise CertificateFlaw(Flaw.WRONG_NAME, why)
    return party


def _checked_key(
    certificate: x509.Certificate, kind: Kind, party: PartyId
) -> EllipticCurvePublicKey | Ed25519PublicKey:
    usages = _usages(certificate)
    key = certificate.public_key()
    if kind is Kind.IDENTITY and isinstance(key, Ed25519PublicKey) and usages == [DOCUMENT_SIGNING]:
        return key
    if kind is Kind.TLS and isinstance(key, EllipticCurvePublicKey) and is_p256(key):
        if usages == [tls_usage(party.role)]:
            return key
        raise CertificateFlaw(Flaw.WRONG_KIND, f"lacks the TLS usage that the role {party.role} must have")
    raise CertificateFlaw(Flaw.WRONG_KIND, f"is not a certificate of the kind '{kind}'")


def _usages(certificate: x509.Certificate) -> list[ObjectIdentifier]:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        key_usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise CertificateFlaw(Flaw.WRONG_KIND, "does not say what it may be used for") from error
    if constraints.ca or key_usage.key_cert_sign or not key_usage.digital_signature:
        raise CertificateFlaw(Flaw.WRONG_KIND, "is not a party's certificate")
    return list(extended)
