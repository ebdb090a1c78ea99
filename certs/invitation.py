"""The one-time token that a coordinator hands to a new party.

It carries the CA certificate, so that the first connection is authenticated already, and a 32-byte secret of which
the other side keeps only the SHA-256. Form: `cloister-invite-v1.` and base64url (no padding) of canonical JSON.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from certs.names import PartyId
from certs.times import parse_utc, utc_text
from certs.verify import federation_of, load_ca
from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ConfigError, ProtocolError

PREFIX = "cloister-invite-v1."
SECRET_BYTES = 32
_FIELDS = {"address", "ca", "expires_utc", "party", "secret"}
_MAX_TOKEN = 16_384


@dataclass(frozen=True)
class Invitation:
    """Who is invited, where to enrol, whom to trust, and the secret that proves the invitation."""

    party: PartyId
    address: str  # host:port of the enrolment port
    ca_pem: bytes
    expires_utc: datetime
    secret: bytes = field(repr=False)

    def encode(self) -> str:
        """The token. Whoever holds it can enrol as `party` once, until it expires: hand it over like a password."""
        body = {
            "address": self.address,
            "ca": self.ca_pem.decode("ascii"),
            "expires_utc": utc_text(self.expires_utc),
            "party": self.party.uri,
            "secret": self.secret.hex(),
        }
        return PREFIX + base64.urlsafe_b64encode(canonical_json(body)).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, token: str) -> Self:
        """Parse a token as pasted by an operator. Raises ConfigError when it is damaged; the token is not repeated."""
        text = token.strip()
        if not text.startswith(PREFIX) or len(text) > _MAX_TOKEN:
            raise _damaged(f"does not start with {PREFIX}")
        try:
            encoded = text.removeprefix(PREFIX)
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            invitation = cls._from(parse_canonical(data, "invitation"))
        except (binascii.Error, ProtocolError, KeyError, TypeError, ValueError) as error:
            raise _damaged("is damaged or incomplete") from error
        if federation_of(load_ca(invitation.ca_pem)) != invitation.party.federation:
            raise _damaged("names one federation and carries the CA of another")
        return invitation

    @classmethod
    def _from(cls, value: Any) -> Self:  # noqa: ANN401 - parsed JSON
        if set(value) != _FIELDS:
            raise ValueError("fields")
        secret = bytes.fromhex(value["secret"])
        if len(secret) != SECRET_BYTES or not isinstance(value["address"], str):
            raise ValueError("secret or address")
        party, expires_utc = PartyId.parse(value["party"]), parse_utc(value["expires_utc"])
        return cls(party, value["address"], value["ca"].encode("ascii"), expires_utc, secret)

    def check_time(self, now: datetime) -> None:
        """Raises ConfigError when the invitation has expired, before anything is sent."""
        if now > self.expires_utc:
            raise ConfigError(
                f"invitation of {self.party.uri}",
                f"expired at {utc_text(self.expires_utc)}, and it is {utc_text(now)} on this machine's clock",
                "Ask the coordinator for a fresh one (`cloister aggregator invite`), or set the clock.",
            )


def secret_digest(secret: bytes) -> str:
    """SHA-256 of a token's secret, hex: all that the enrolment desk keeps of it."""
    return hashlib.sha256(secret).hexdigest()


def _damaged(why: str) -> ConfigError:
    return ConfigError("invitation token", why, "Copy the whole token, on one line, from `cloister aggregator invite`.")
