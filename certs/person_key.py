"""A person's own signing key: one file, encrypted with a passphrase, kept by that person and by no daemon."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from certs.files import read_private, write_durably
from privacy.errors import ConfigError

LEAST_PASSPHRASE = 8


def make_person_key(path: Path, passphrase: str) -> str:
    """Make an Ed25519 key, write it encrypted (PKCS 8, PEM, mode 0600), and return its raw public half in hex.

    Raises ConfigError for a file that is there, or a passphrase that is too short.
    """
    if path.exists():
        raise ConfigError(f"file {path}", "is there already", "Name a new file.")
    if len(passphrase) < LEAST_PASSPHRASE:
        why = f"has fewer than {LEAST_PASSPHRASE} characters"
        raise ConfigError("passphrase", why, "Choose a longer one; nobody can recover it.")
    key = Ed25519PrivateKey.generate()
    encrypted = BestAvailableEncryption(passphrase.encode())
    write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted))
    return key.public_key().public_bytes_raw().hex()


def load_person_key(path: Path, passphrase: str) -> Ed25519PrivateKey:
    """The key in a file that `make_person_key` wrote. Raises ConfigError for another file or another passphrase."""
    data = read_private(path, "Name the key file that `cloister silo admins key` wrote.")
    try:
        key = load_pem_private_key(data, passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"key {path}", "cannot be opened with this passphrase", "Type it again.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"key {path}", "is no Ed25519 key", "Make one with `cloister silo admins key`.")
    return key
