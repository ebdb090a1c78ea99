"""A folder of requests for a CA that is offline: carried to it, signed there with `cloister certs sign`, carried back.

<id>.request.json   canonical JSON: party, requests, when          id = SHA-256 over party and requests
<id>.issued.json    the CA's answer
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certs.ca import CertificateAuthority
from certs.files import PUBLIC, private_folder, read_file, write_durably
from certs.names import PartyId
from certs.requests import IssuedCertificates
from certs.times import utc_text
from certs.verify import CertificateFlaw, Kind, federation_of, load_ca, read_leaf
from privacy.canonical import canonical_json, digest, parse_canonical
from privacy.errors import ConfigError, ProtocolError, Unavailable

_LABEL = "cloister/v1/ca-queue"
_STEP = "Carry the queue folder from the aggregator again."


@dataclass(frozen=True)
class QueuedRequest:
    """One thing to sign: both certificates of a new party, or (no identity request) a fresh TLS leaf."""

    party: PartyId
    tls_csr: bytes
    identity_csr: bytes | None

    @property
    def name(self) -> str:
        """The id under which it lies in the folder."""
        parts = (self.party.uri.encode(), self.tls_csr, self.identity_csr or b"")
        return digest(_LABEL, *parts).hex()


class RequestQueue:
    """Stands in for an online CA (`certs.enrolment.Issuing`): asks once, answers when the answer has come back."""

    def __init__(self, folder: Path, ca_pem: bytes) -> None:
        self.folder = folder
        self.ca_pem = ca_pem
        self._ca = load_ca(ca_pem)

    @property
    def federation(self) -> str:
        """The federation's name."""
        return federation_of(self._ca)

    def issue(self, party: PartyId, tls_csr: bytes, identity_csr: bytes, now: datetime) -> IssuedCertificates:
        """Both certificates. Raises Unavailable until the CA's owner has signed."""
        tls, identity = self._answer(QueuedRequest(party, tls_csr, identity_csr), now)
        return IssuedCertificates(tls, identity)

    def renew(self, party: PartyId, csr: bytes, now: datetime) -> bytes:
        """A fresh TLS leaf. Raises Unavailable until the CA's owner has signed."""
        return self._answer(QueuedRequest(party, csr, None), now)[0]

    def _answer(self, request: QueuedRequest, now: datetime) -> tuple[bytes, bytes]:
        path = self.folder / f"{request.name}.issued.json"
        if path.exists():
            tls, identity = self._read_answer(path, request)
            if now < read_leaf(tls, self._ca, Kind.TLS).not_after_utc:
                return tls, identity
            path.unlink()  # it came too late to be used: the CA's owner is asked again
        asked = self.folder / f"{request.name}.request.json"
        if not asked.exists():
            private_folder(self.folder)
            body = {
                "identity_csr": None if request.identity_csr is None else request.identity_csr.decode("ascii"),
                "party": request.party.uri,
                "requested_utc": utc_text(now),
                "tls_csr": request.tls_csr.decode("ascii"),
            }
            write_durably(asked, canonical_json(body), PUBLIC)
        raise Unavailable(
            f"certificates for {request.party.uri}",
            "the federation's CA is offline; the request waits for its owner (`cloister certs sign`)",
            "Run the same command again when it is signed; a token has to be good then, too.",
        )

    def _read_answer(self, path: Path, request: QueuedRequest) -> tuple[bytes, bytes]:
        try:
            value = parse_canonical(read_file(path, _STEP), "CA answer")
            tls, identity = value["tls"].encode("ascii"), (value["identity"] or "").encode("ascii")
            wanted = [(Kind.TLS, tls)] + ([(Kind.IDENTITY, identity)] if request.identity_csr else [])
            parties = {read_leaf(pem, self._ca, kind).party for kind, pem in wanted}
        except (ProtocolError, CertificateFlaw, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(str(path), "is not an answer of this federation's CA", _STEP) from error
        if parties != {request.party}:
            raise ConfigError(str(path), f"is not for {request.party.uri}", _STEP)
        return tls, identity


def waiting(folder: Path) -> tuple[QueuedRequest, ...]:
    """The requests in a queue folder that have no answer yet. Raises ConfigError for a file that is damaged."""
    if not folder.is_dir():
        raise ConfigError(f"queue {folder}", "is not a folder", _STEP)
    found = []
    for path in sorted(folder.glob("*.request.json")):
        try:
            value = parse_canonical(read_file(path, _STEP), "queued request")
            identity = None if value["identity_csr"] is None else value["identity_csr"].encode("ascii")
            request = QueuedRequest(PartyId.parse(value["party"]), value["tls_csr"].encode("ascii"), identity)
        except (ProtocolError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(str(path), "is damaged", _STEP) from error
        if not (folder / f"{request.name}.issued.json").exists():
            found.append(request)
    return tuple(found)


def answer(folder: Path, request: QueuedRequest, authority: CertificateAuthority, now: datetime) -> None:
    """Sign one request and put the answer beside it. Raises ProtocolError or Refused; nothing is then written."""
    if request.identity_csr is None:
        tls, identity = authority.renew(request.party, request.tls_csr, now), None
    else:
        issued = authority.issue(request.party, request.tls_csr, request.identity_csr, now)
        tls, identity = issued.tls, issued.identity.decode("ascii")
    body = canonical_json({"identity": identity, "tls": tls.decode("ascii")})
    write_durably(folder / f"{request.name}.issued.json", body, PUBLIC)
