"""One party's keys and certificates in one folder. Private keys are made here and never leave it.

    ca.pem  tls.key  tls.pem  identity.key  identity.pem         folder 0700, keys 0600
    tls.key.next  tls.csr  identity.key.next  identity.csr       while a request is under way

The identity key stays for as long as nobody asks for another: `create(..., new_identity=True)`.

Requests are stored before they are sent, so that a retry sends the same bytes. A certificate is installed only after
it is found to fit the key, the CA and the party; it is written before its key is renamed, and a certificate whose key
still has the name `.next` is good, so that a crash at any point leaves a usable wallet.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from certs.files import PUBLIC, private_folder, read_file, read_private, write_durably
from certs.identity import Identity
from certs.names import PartyId, Role
from certs.profile import PrivateKey, private_pem, signing_request
from certs.requests import CertificateRequests, IssuedCertificates, requested_party
from certs.verify import CertificateFlaw, Flaw, Kind, Leaf, load_ca, read_leaf
from privacy.errors import CloisterError, ConfigError, ProtocolError

_ENROL = "Enrol with a fresh token from the coordinator (`cloister silo enrol`), or `cloister certs issue` at the CA."
_CHANGE_AGAIN = {
    Role.SILO: "Run `cloister silo rotate-key` again with a token, or once with --abandon.",
    Role.AGGREGATOR: "Run `cloister aggregator rotate-key` again, or once with --abandon.",
}
_NEXT_STEPS = {
    Flaw.EXPIRED: "Renew it with `cloister certs renew` at the CA, or enrol again; docs/how-to/rotate-certificates.md.",
    Flaw.NOT_YET_VALID: "Set this machine's clock (`timedatectl` shows whether it is synchronised).",
    Flaw.WRONG_CA: "Put the federation's own ca.pem there, or enrol in this federation again.",
}
IDENTITY_EXPIRED = (
    "Enrol again, or run `cloister certs issue` at the CA, into the same folder: the key stays; "
    "docs/how-to/rotate-certificates.md."
)


@dataclass(frozen=True)
class TlsMaterial:
    """What a TLS library needs, PEM, and until when it holds."""

    party: PartyId
    not_after_utc: datetime
    ca_pem: bytes = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True)
class _Pair:
    """A certificate and the key that belongs to it."""

    leaf: Leaf
    certificate_pem: bytes
    key: PrivateKey = field(repr=False)


class Wallet:
    """A party's folder. Opening reads nothing; `check` says whether it can be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        """The folder only."""
        return f"Wallet({str(self.folder)!r})"

    @classmethod
    def create(cls, folder: Path, ca_pem: bytes, party: PartyId, *, new_identity: bool = False) -> Self:
        """Make keys and requests for `party`, or take up an enrolment that was interrupted.

        A party that is enrolled already (its TLS certificate may have expired) enrols again under the same identity
        key, so that its fingerprint stays; with `new_identity` under a fresh one. Raises ConfigError when the folder is
        another federation's or party's, or a change of the identity key was interrupted that this would not finish.
        """
        load_ca(ca_pem)
        private_folder(folder)
        wallet = cls(folder)
        path = folder / "ca.pem"
        if path.exists() and path.read_bytes() != ca_pem:
            raise ConfigError(f"folder {folder}", "holds another federation's ca.pem", "Choose an empty folder.")
        if wallet.enrolled and wallet.party != party:
            raise ConfigError(
                f"folder {folder}", f"already holds {wallet.party.uri}", f"Choose another folder for {party.uri}."
            )
        if not new_identity:
            wallet.check_no_change()
        write_durably(path, ca_pem, PUBLIC)
        for kind in Kind:
            if requested_party(wallet._request(kind, party, another=new_identity)) != party:
                raise ConfigError(
                    f"folder {folder}", f"holds keys made for another party than {party.uri}", "Choose an empty folder."
                )
        return wallet

    @property
    def enrolled(self) -> bool:
        """Whether both certificates are there."""
        return all(self._path(kind, "pem").exists() for kind in Kind)

    @property
    def identity_changes(self) -> bool:
        """Whether a new identity key was made, of which the certificate is not in place yet."""
        pending = self._path(Kind.IDENTITY, "key.next")
        return self.enrolled and pending.exists() and not _fits(_load_key(pending), self._certificate(Kind.IDENTITY))

    def check_no_change(self) -> None:
        """No change of the identity key was begun and not ended. Raises ConfigError."""
        if self.identity_changes:
            step = _CHANGE_AGAIN.get(self.party.role, _ENROL)
            raise ConfigError(f"folder {self.folder}", "a change of the identity key was interrupted", step)

    @property
    def ca_pem(self) -> bytes:
        """The federation's CA certificate. Raises ConfigError when missing."""
        return read_file(self.folder / "ca.pem", _ENROL)

    @property
    def party(self) -> PartyId:
        """Whom the identity certificate names. Raises ConfigError when it is missing or of another CA."""
        return self.leaf(Kind.IDENTITY).party

    def requests(self) -> CertificateRequests:
        """The stored requests of `create`, the same bytes every time. Raises ConfigError when there are none."""
        tls, identity = (read_file(self._path(kind, "csr"), _ENROL) for kind in Kind)
        return CertificateRequests(tls, identity)

    def install(self, issued: IssuedCertificates, now: datetime) -> PartyId:
        """Put both certificates in place, after checking both. Raises ProtocolError naming what does not fit."""
        party = self.offered(issued, now).party
        self._put(Kind.TLS, issued.tls)
        self._put(Kind.IDENTITY, issued.identity)
        self._drop_requests()
        return party

    def offered(self, issued: IssuedCertificates, now: datetime) -> Identity:
        """The identity that `install` would put in place. Raises ProtocolError naming what does not fit."""
        leaf = self._check_offer(Kind.IDENTITY, issued.identity, now)
        if self._check_offer(Kind.TLS, issued.tls, now).party != leaf.party:
            raise ProtocolError("issued certificates", "name two different parties", "Ask the coordinator.")
        return self._identity(_Pair(leaf, issued.identity, self._key(Kind.IDENTITY, issued.identity)))

    def settle(self) -> list[Kind]:
        """Clear away requests whose answers are in place, after a crash; for which certificates there were any."""
        left = [kind for kind in Kind if self._path(kind, "csr").exists()]
        if not left or not self.enrolled:
            return []
        if not all(_requests(self._pair(kind).key, self._path(kind, "csr").read_bytes()) for kind in left):
            return []
        for kind in left:
            self._finish_rename(kind)
        self._drop_requests()
        return left

    def has_begun(self, public_key: bytes) -> bool:
        """Whether this is the new identity key of a change that was begun here."""
        pending = self._path(Kind.IDENTITY, "key.next")
        if not pending.exists():
            return False
        key = _load_key(pending)
        return isinstance(key, Ed25519PrivateKey) and key.public_key().public_bytes_raw() == public_key

    def abandon(self) -> None:
        """Forget requests whose answers are not in place, and the new identity key: the present one stays."""
        if self.identity_changes:
            self._path(Kind.IDENTITY, "key.next").unlink()
        self._drop_requests()

    def renewal_request(self) -> bytes:
        """A request for the next TLS leaf on a fresh key; the same bytes until its answer is installed."""
        party = self.leaf(Kind.TLS).party
        self._finish_rename(Kind.TLS)
        csr, key = self._path(Kind.TLS, "csr"), self._path(Kind.TLS, "key")
        if csr.exists() and _requests(_load_key(key), csr.read_bytes()):
            csr.unlink()  # its answer is installed already: a crash came before it was cleared away
        return self._request(Kind.TLS, party)

    def install_renewal(self, tls_pem: bytes, now: datetime) -> None:
        """Put a renewed TLS leaf in place. Raises ProtocolError naming what does not fit; the old one then stands."""
        party = self.party
        if self._check_offer(Kind.TLS, tls_pem, now).party != party:
            raise ProtocolError("renewed certificate", f"does not name {party.uri}", "Ask the coordinator.")
        self._put(Kind.TLS, tls_pem)
        self._path(Kind.TLS, "csr").unlink(missing_ok=True)

    def renewal_due(self, now: datetime) -> bool:
        """Whether two thirds of the TLS leaf's life are over."""
        leaf = self.leaf(Kind.TLS)
        return now >= leaf.not_after_utc - (leaf.not_after_utc - leaf.not_before_utc) / 3

    def check(self, now: datetime, role: Role | None = None) -> PartyId:
        """The party this wallet is for, if everything in it can be used now (as `role`, when given).

        Raises ConfigError naming the cause: a file missing or readable by others, a certificate expired or not yet
        valid (a clock), of another CA, without its key, of another role, or the two naming different parties.
        """
        self.check_no_change()
        leaves = [self._pair(kind).leaf for kind in Kind]
        for leaf in leaves:
            try:
                leaf.check_time(now)
            except CertificateFlaw as error:
                raise self._own(leaf.kind, error) from error
        tls, identity = (leaf.party for leaf in leaves)
        if tls != identity:
            why = f"tls.pem names {tls.uri} and identity.pem names {identity.uri}"
            raise ConfigError(f"folder {self.folder}", why, _ENROL)
        if role is not None:
            self._check_role(tls, role)
        return tls

    def signer(self, now: datetime, role: Role) -> Identity:
        """The signing identity of a party of this role, if it is good now. The TLS certificate may have expired: what
        is signed to be carried by hand takes no connection.

        Raises ConfigError naming the cause.
        """
        own = self._pair(Kind.IDENTITY)
        try:
            own.leaf.check_time(now)
        except CertificateFlaw as error:
            raise self._own(Kind.IDENTITY, error) from error
        self._check_role(own.leaf.party, role)
        return self._identity(own)

    def tls(self) -> TlsMaterial:
        """What TLS needs, read afresh: a renewal in another process is seen. Raises ConfigError."""
        own = self._pair(Kind.TLS)
        key_pem = private_pem(own.key)
        return TlsMaterial(own.leaf.party, own.leaf.not_after_utc, self.ca_pem, own.certificate_pem, key_pem)

    def identity(self) -> Identity:
        """The signing identity. Raises ConfigError."""
        return self._identity(self._pair(Kind.IDENTITY))

    def _identity(self, own: _Pair) -> Identity:
        if not isinstance(own.key, Ed25519PrivateKey):
            raise ConfigError(f"key file {self._path(Kind.IDENTITY, 'key')}", "is not an Ed25519 key", _ENROL)
        return Identity(own.leaf.party, own.certificate_pem, own.key)

    def _drop_requests(self) -> None:
        for kind in Kind:
            self._path(kind, "csr").unlink(missing_ok=True)

    def _path(self, kind: Kind, suffix: str) -> Path:
        return self.folder / f"{kind}.{suffix}"

    def _certificate(self, kind: Kind) -> bytes:
        return read_file(self._path(kind, "pem"), _ENROL)

    def leaf(self, kind: Kind) -> Leaf:
        """What one of the two certificates says, whatever the time. Raises ConfigError."""
        return self._leaf(kind, self._certificate(kind))

    def _leaf(self, kind: Kind, certificate_pem: bytes) -> Leaf:
        try:
            return read_leaf(certificate_pem, load_ca(self.ca_pem), kind)
        except CertificateFlaw as error:
            raise self._own(kind, error) from error

    def _check_role(self, party: PartyId, role: Role) -> None:
        if party.role is not role:
            why = f"holds the certificates of {party.uri}, and this command runs as a party of role {role}"
            raise ConfigError(f"folder {self.folder}", why, "Name that role's own folder.")

    def _own(self, kind: Kind, error: CertificateFlaw) -> CloisterError:
        step = _NEXT_STEPS.get(error.flaw, _ENROL)
        if (kind, error.flaw) == (Kind.IDENTITY, Flaw.EXPIRED):
            step = IDENTITY_EXPIRED  # a renewal is of the TLS certificate alone
        return ConfigError(f"certificate {self._path(kind, 'pem')}", error.why, step)

    def _request(self, kind: Kind, party: PartyId, *, another: bool = False) -> bytes:
        """The request under way, or a new one: on a new key, but on the identity key there is, unless for `another`,
        and then on the one that was begun: a ledger may have it already.
        """
        csr, pending, present = self._path(kind, "csr"), self._path(kind, "key.next"), self._path(kind, "key")
        stays = kind is Kind.IDENTITY and not another
        for path in (pending, present) if stays or kind is Kind.TLS else (pending,):
            if csr.exists() and path.exists() and _requests(_load_key(path), stored := csr.read_bytes()):
                return stored
        self._finish_rename(kind)
        if stays and present.exists():
            key = _load_key(present)
        elif kind is Kind.IDENTITY and pending.exists():
            key = _load_key(pending)
        else:
            key = generate_private_key(SECP256R1()) if kind is Kind.TLS else Ed25519PrivateKey.generate()
            write_durably(pending, private_pem(key))
        request = signing_request(key, party).public_bytes(Encoding.PEM)
        write_durably(csr, request, PUBLIC)
        return request

    def _finish_rename(self, kind: Kind) -> None:
        """If a crash came between an installed certificate and its key's rename, rename now."""
        pending = self._path(kind, "key.next")
        if pending.exists() and self._path(kind, "pem").exists() and _fits(_load_key(pending), self._certificate(kind)):
            pending.rename(self._path(kind, "key"))

    def _check_offer(self, kind: Kind, pem: bytes, now: datetime) -> Leaf:
        try:
            leaf = read_leaf(pem, load_ca(self.ca_pem), kind)
            leaf.check_time(now)
        except CertificateFlaw as error:
            next_step = _NEXT_STEPS[error.flaw] if error.flaw is Flaw.NOT_YET_VALID else "Ask the coordinator."
            raise ProtocolError(f"issued {kind} certificate", error.why, next_step) from error
        candidates = [self._path(kind, suffix) for suffix in ("key.next", "key")]
        if not any(_fits(_load_key(path), pem) for path in candidates if path.exists()):
            raise ProtocolError(f"issued {kind} certificate", "is for another key than ours", "Ask the coordinator.")
        return leaf

    def _put(self, kind: Kind, pem: bytes) -> None:
        write_durably(self._path(kind, "pem"), pem, PUBLIC)
        self._finish_rename(kind)

    def _pair(self, kind: Kind) -> _Pair:
        """One of the two certificates and its key. A renewal replaces them one after the other: it is waited for."""
        while True:
            certificate = self._certificate(kind)
            leaf = self._leaf(kind, certificate)
            try:
                return _Pair(leaf, certificate, self._key(kind, certificate))
            except ConfigError:
                if self._certificate(kind) == certificate:
                    raise

    def _key(self, kind: Kind, certificate_pem: bytes) -> PrivateKey:
        path, pending = self._path(kind, "key"), self._path(kind, "key.next")
        try:
            if pending.exists() and _fits(key := _load_key(pending), certificate_pem):
                return key
        except ConfigError:
            if pending.exists():
                raise  # else it has just become `path`
        if not _fits(key := _load_key(path), certificate_pem):
            raise ConfigError(f"key file {path}", f"does not belong to {kind}.pem beside it", _ENROL)
        return key


def _load_key(path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(read_private(path, _ENROL), None)
    except ValueError as error:
        raise ConfigError(f"key file {path}", "is damaged", _ENROL) from error
    if not isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ConfigError(f"key file {path}", "is of a kind that Cloister does not use", _ENROL)
    return key


def _requests(key: PrivateKey, csr_pem: bytes) -> bool:
    return x509.load_pem_x509_csr(csr_pem).public_key() == key.public_key()


def _fits(key: PrivateKey, certificate_pem: bytes) -> bool:
    certified = x509.load_pem_x509_certificate(certificate_pem).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form) == certified.public_bytes(*form)
