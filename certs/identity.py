"""A party's signing identity, and the fingerprints by which people compare identities."""

import hashlib
import re
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.names import PartyId
from privacy.errors import ConfigError

_GROUP = 4


@dataclass(frozen=True)
class Identity:
    """Signs as `party`. The key is in no repr; `public_key` is the raw 32 bytes that rosters and policies pin."""

    party: PartyId
    certificate_pem: bytes = field(repr=False)
    _key: Ed25519PrivateKey = field(repr=False)

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, data: bytes) -> bytes:
        """A 64-byte Ed25519 signature. `data` starts with a version label (round-protocol.md, Names)."""
        return self._key.sign(data)


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of a raw public key in hex, sixteen groups of four, for reading aloud."""
    text = hashlib.sha256(public_key).hexdigest()
    return " ".join(text[place : place + _GROUP] for place in range(0, len(text), _GROUP))


def parse_fingerprint(text: str) -> str:
    """A fingerprint as a person typed it, in the form that `fingerprint` gives. Raises ConfigError."""
    bare = re.sub(r"[\s:-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", bare):
        raise ConfigError(
            f"fingerprint {text[:100]!r}",
            "is not 64 hexadecimal digits",
            "Ask the other side for the output of `cloister certs show`, by telephone or in person.",
        )
    return " ".join(bare[place : place + _GROUP] for place in range(0, len(bare), _GROUP))
