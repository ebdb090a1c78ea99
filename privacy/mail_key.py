"""The public half of a mail key: what anybody checks before a silo is let in with it. Opens nothing.

A key on which every honest sender would fail must not enter a roll: each dealer in turn would be taken for dead.
"""

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.errors import ProtocolError

MLKEM_PUBLIC_BYTES = 1184
PUBLIC_KEY_BYTES = MLKEM_PUBLIC_BYTES + 32
OVERHEAD_BYTES = 1120 + 16  # of a sealed mail: the KEM's two ciphertexts and the AEAD's tag


def read_mail_key(data: bytes, owner: str) -> tuple[MLKEM768PublicKey, X25519PublicKey]:
    """The ML-KEM-768 and X25519 keys of 1,216 bytes. Raises ProtocolError unless mail can be sealed to them.

    ML-KEM: the modulus check of FIPS 203, 7.2. X25519: no point of low order, whose shared secret would be zero
    (RFC 7748, 6.1; RFC 9180, 7.1.4 has the sender fail on it).
    """
    try:
        post_quantum = MLKEM768PublicKey.from_public_bytes(data[:MLKEM_PUBLIC_BYTES])
        classical = X25519PublicKey.from_public_bytes(data[MLKEM_PUBLIC_BYTES:])
        post_quantum.encapsulate()
        X25519PrivateKey.generate().exchange(classical)
    except ValueError as error:
        raise ProtocolError(
            f"mail key of {owner}",
            "is not an MLKEM768_X25519 public key that mail can be sealed to",
            "The silo was not let in; it must join with a sound key.",
            sender=owner,
            step="join",
        ) from error
    return post_quantum, classical
