"""Sealed mail between silos: HPKE (RFC 9180) with KEM MLKEM768_X25519, HKDF-SHA256 and AES-256-GCM.

The aggregator relays mail and can open none. `cryptography`'s HPKE takes `info` and no associated data, so everything
a mail is bound to goes into info = label | binding | sender | receiver. A mail says nothing about who wrote it: the
dealer's signed statement carries its digest.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from privacy.errors import ProtocolError
from privacy.mail_key import read_mail_key

MAIL_LABEL = b"cloister/v1/mail"
MLKEM_SEED_BYTES = 64
PRIVATE_KEY_BYTES = MLKEM_SEED_BYTES + 32

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(binding: bytes, sender: str, receiver: str) -> bytes:
    parts = (MAIL_LABEL, binding, sender.encode(), receiver.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@dataclass(frozen=True)
class MailKey:
    """A silo's mail key for one job. `private_bytes` is for the vault only; it has no useful repr."""

    private_bytes: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "MailKey":
        """A fresh key from the operating system's random numbers."""
        return cls(MLKEM768PrivateKey.generate().private_bytes_raw() + X25519PrivateKey.generate().private_bytes_raw())

    def _parts(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        seed, scalar = self.private_bytes[:MLKEM_SEED_BYTES], self.private_bytes[MLKEM_SEED_BYTES:]
        return MLKEM768PrivateKey.from_seed_bytes(seed), X25519PrivateKey.from_private_bytes(scalar)

    @property
    def public_bytes(self) -> bytes:
        """1,216 bytes: the ML-KEM-768 key, then the X25519 key."""
        post_quantum, classical = self._parts()
        return post_quantum.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()

    def open(self, sealed: bytes, *, binding: bytes, sender: str, receiver: str, step: str = "deal") -> bytes:
        """Open a mail from `sender` to `receiver` bound to `binding`. Raises ProtocolError if anything differs."""
        try:
            return _SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(*self._parts()), _info(binding, sender, receiver))
        except (InvalidTag, ValueError) as error:
            raise ProtocolError(
                f"mail from {sender} to {receiver}",
                "does not open: it was altered, sent to another silo, or made for another job or round",
                "Nothing was taken from it; the job cannot go on with it.",
                sender=sender,
                step=step,
            ) from error


def seal_mail(plaintext: bytes, to_public: bytes, *, binding: bytes, sender: str, receiver: str) -> bytes:
    """Seal a mail that only the holder of `to_public` can open. Raises ProtocolError on a malformed public key."""
    keys = MLKEM768X25519PublicKey(*read_mail_key(to_public, receiver))
    return _SUITE.encrypt(plaintext, keys, _info(binding, sender, receiver))
