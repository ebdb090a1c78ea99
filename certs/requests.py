"""Certificate requests: what a CA accepts of one. The CA decides the name; a request proves possession of a key."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from certs.names import PartyId
from certs.profile import is_p256
from certs.verify import MAX_PEM_BYTES, Kind
from privacy.errors import ProtocolError


@dataclass(frozen=True)
class CertificateRequests:
    """A party's two requests, PEM: one for its TLS key, one for its identity key."""

    tls: bytes
    identity: bytes


@dataclass(frozen=True)
class IssuedCertificates:
    """What the CA answers, PEM."""

    tls: bytes
    identity: bytes


def request_for_tls(pem: bytes, party: PartyId) -> EllipticCurvePublicKey:
    """The P-256 key of a request that may become `party`'s TLS leaf. Raises ProtocolError."""
    key = _checked(pem, party, Kind.TLS).public_key()
    if not (isinstance(key, EllipticCurvePublicKey) and is_p256(key)):
        raise _refusal(Kind.TLS, "is not for a P-256 key")
    return key


def request_for_identity(pem: bytes, party: PartyId) -> Ed25519PublicKey:
    """The Ed25519 key of a request that may become `party`'s identity certificate. Raises ProtocolError."""
    key = _checked(pem, party, Kind.IDENTITY).public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise _refusal(Kind.IDENTITY, "is not for an Ed25519 key")
    return key


def requested_party(pem: bytes) -> PartyId:
    """The one party a request names. Raises ProtocolError."""
    names = _names(_parse(pem, "certificate"))
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _refusal("certificate", "does not name exactly one party")
    return PartyId.parse(names[0].value)


def _checked(pem: bytes, party: PartyId, kind: Kind) -> x509.CertificateSigningRequest:
    request = _parse(pem, kind)
    try:
        genuine = request.is_signature_valid
    except Exception as error:  # an unsupported key or algorithm: cryptography raises several classes here
        raise _refusal(kind, "has a signature of an unknown kind") from error
    if not genuine:
        raise _refusal(kind, "is not signed by the key it names")
    names = _names(request)
    if names and names != [x509.UniformResourceIdentifier(party.uri)]:
        raise _refusal(kind, f"asks for other names than {party.uri}")
    return request


def _parse(pem: bytes, kind: str) -> x509.CertificateSigningRequest:
    if len(pem) > MAX_PEM_BYTES or not pem.isascii():
        raise _refusal(kind, f"is not ASCII text of at most {MAX_PEM_BYTES} bytes")
    try:
        return x509.load_pem_x509_csr(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise _refusal(kind, "is not a PKCS #10 request in PEM form") from error


def _names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
    except ValueError as error:
        raise _refusal("certificate", "carries names that cannot be read") from error


def _refusal(kind: str, why: str) -> ProtocolError:
    return ProtocolError(f"{kind} request", why, "Make the request with `cloister silo enrol`; nothing was signed.")
