"""The enrolment desk: invitations out, certificates in return for a secret that is good once.

No network and no clock. State is behind the narrow port `InvitationStore`; the signature comes from an `Issuing`:
the CA itself, or a queue for a CA that is offline.

A secret is bound to the first pair of requests it comes with, before anything is signed. The same requests again,
within the invitation's life, get the same certificates: a retry after a lost answer resends stored bytes. Other
requests are refused.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from certs.invitation import SECRET_BYTES, Invitation, secret_digest
from certs.names import PartyId, Role
from certs.requests import CertificateRequests, IssuedCertificates, request_for_identity, request_for_tls
from certs.times import utc, utc_text
from privacy.errors import ConfigError, Refused

_TAKEN = "is the aggregator's name, and each ledger of a federation has a name of its own"
DEFAULT_LIFETIME = timedelta(days=7)
MAX_LIFETIME = timedelta(days=90)


@dataclass(frozen=True)
class StoredInvitation:
    """What the desk remembers. `secret_sha256` is the key; it opens nothing."""

    secret_sha256: str
    party: PartyId
    expires_utc: datetime
    request_sha256: str | None = None  # of the requests the secret was used with
    issued: IssuedCertificates | None = None


class InvitationStore(Protocol):
    """Durable storage of invitations; every method is one transaction."""

    def add(self, invitation: StoredInvitation) -> None:
        """Store a new invitation."""

    def find(self, secret_sha256: str) -> StoredInvitation | None:
        """The invitation with this digest, if there is one."""

    def bind(self, secret_sha256: str, request_sha256: str) -> StoredInvitation:
        """Set `request_sha256` unless one is set, atomically; returns the invitation as it then is."""

    def settle(self, secret_sha256: str, issued: IssuedCertificates) -> None:
        """Store the certificates that answer the bound requests."""


class Issuing(Protocol):
    """Whoever turns requests into certificates: `CertificateAuthority`, or `RequestQueue` for one that is offline."""

    @property
    def federation(self) -> str:
        """The federation's name."""

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate."""

    def issue(self, party: PartyId, tls_csr: bytes, identity_csr: bytes, now: datetime) -> IssuedCertificates:
        """Both certificates. Raises Unavailable while an offline CA has not answered."""

    def renew(self, party: PartyId, csr: bytes, now: datetime) -> bytes:
        """A fresh TLS leaf. Raises Unavailable while an offline CA has not answered."""


class EnrolmentDesk:
    """Invites and admits parties of one federation, whose aggregator has this name."""

    def __init__(self, issuing: Issuing, store: InvitationStore, address: str, aggregator: str) -> None:
        self._issuing = issuing
        self._store = store
        self._address = address
        self._aggregator = aggregator

    def invite(self, role: Role, name: str, now: datetime, lifetime: timedelta = DEFAULT_LIFETIME) -> Invitation:
        """A fresh invitation, stored before it is returned.

        Raises ConfigError for a bad name, role or lifetime, and for a silo of the aggregator's name.
        """
        party = PartyId(self._issuing.federation, role, name)
        if role is Role.AGGREGATOR:
            raise ConfigError(
                f"inviting {party.uri}",
                "an aggregator is not enrolled by token",
                "Use `cloister certs issue aggregator NAME` at the CA.",
            )
        if self._taken(party):
            raise ConfigError(f"inviting {party.uri}", _TAKEN, "Choose another name, such as hospital-a.")
        if not timedelta() < lifetime <= MAX_LIFETIME:
            raise ConfigError(
                f"invitation lifetime of {lifetime}", f"is not within 0 and {MAX_LIFETIME.days} days", "Choose less."
            )
        secret = secrets.token_bytes(SECRET_BYTES)
        invitation = Invitation(party, self._address, self._issuing.ca_pem, utc(now) + lifetime, secret)
        self._store.add(StoredInvitation(secret_digest(secret), party, invitation.expires_utc))
        return invitation

    def redeem(self, secret: bytes, requests: CertificateRequests, now: datetime) -> IssuedCertificates:
        """The certificates that `secret` buys.

        Raises Refused for an unknown, used or expired secret and for a silo of the aggregator's name, ProtocolError
        for requests that are not what they must be (the secret then stays good), Unavailable while an offline CA has
        not signed.
        """
        key = secret_digest(secret)
        found = self._store.find(key)
        if found is None:
            raise _refusal("is not known here: it was issued elsewhere, or withdrawn")
        if self._taken(found.party):
            raise Refused(f"enrolling {found.party.uri}", _TAKEN, "Ask the coordinator for a token for another name.")
        if utc(now) > found.expires_utc:
            raise _refusal(f"expired at {utc_text(found.expires_utc)}")
        request_for_tls(requests.tls, found.party)
        request_for_identity(requests.identity, found.party)
        wanted = requests_digest(requests)
        bound = self._store.bind(key, wanted)
        if bound.request_sha256 != wanted:
            raise _refusal("has been used already, with other keys; if that was not you, tell the coordinator at once")
        if bound.issued is not None:
            return bound.issued
        issued = self._issuing.issue(found.party, requests.tls, requests.identity, now)
        self._store.settle(key, issued)
        return issued

    def _taken(self, party: PartyId) -> bool:
        """A silo and the aggregator of one name would have one log: its name does not say the role."""
        return party.role is Role.SILO and party.name == self._aggregator

    def renew(self, party: PartyId, csr: bytes, now: datetime) -> bytes:
        """A fresh TLS leaf for a caller whose certificate named it. Raises Refused, ProtocolError, Unavailable."""
        return self._issuing.renew(party, csr, now)


def requests_digest(requests: CertificateRequests) -> str:
    """SHA-256, hex, over both requests: which answer belongs to which question."""
    state = hashlib.sha256()
    for part in (requests.tls, requests.identity):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def _refusal(why: str) -> Refused:
    return Refused("invitation token", why, "Ask the coordinator for a fresh one (`cloister aggregator invite NAME`).")
