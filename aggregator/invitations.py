"""The enrolment desk's port onto the database (`certs.enrolment.InvitationStore`)."""

from datetime import datetime

from sqlalchemy import Engine, insert, select, update

from aggregator.tables import INVITATIONS
from certs.enrolment import StoredInvitation
from certs.names import PartyId
from certs.requests import IssuedCertificates
from privacy.errors import InternalError
from runtime.database import read, write


class Invitations:
    """Every method is one transaction. Keeps digests of secrets, never secrets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, invitation: StoredInvitation) -> None:
        """Store a new invitation."""
        values = {
            "secret_sha256": invitation.secret_sha256,
            "party": invitation.party.uri,
            "expires_utc": invitation.expires_utc.isoformat(),
        }
        with write(self._engine) as db:
            db.execute(insert(INVITATIONS).values(**values))

    def find(self, secret_sha256: str) -> StoredInvitation | None:
        """The invitation with this digest, if there is one."""
        with read(self._engine) as db:
            row = db.execute(select(INVITATIONS).where(INVITATIONS.c.secret_sha256 == secret_sha256)).first()
        if row is None:
            return None
        issued = None if row.tls_pem is None else IssuedCertificates(row.tls_pem, row.identity_pem)
        party, expires_utc = PartyId.parse(row.party), datetime.fromisoformat(row.expires_utc)
        return StoredInvitation(row.secret_sha256, party, expires_utc, row.request_sha256, issued)

    def bind(self, secret_sha256: str, request_sha256: str) -> StoredInvitation:
        """Set `request_sha256` unless one is set, atomically; returns the invitation as it then is."""
        unbound = (INVITATIONS.c.secret_sha256 == secret_sha256) & INVITATIONS.c.request_sha256.is_(None)
        with write(self._engine) as db:
            db.execute(update(INVITATIONS).where(unbound).values(request_sha256=request_sha256))
        found = self.find(secret_sha256)
        if found is None:
            raise InternalError("invitation", "vanished while it was redeemed", "Report this.")
        return found

    def settle(self, secret_sha256: str, issued: IssuedCertificates) -> None:
        """Store the certificates that answer the bound requests."""
        values = {"tls_pem": issued.tls, "identity_pem": issued.identity}
        with write(self._engine) as db:
            db.execute(update(INVITATIONS).where(INVITATIONS.c.secret_sha256 == secret_sha256).values(**values))
