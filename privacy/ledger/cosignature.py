"""Cosignatures: C2SP tlog-cosignature, `cosignature/v1`, Ed25519.

A witness states that, so far as it has seen this log, its checkpoint continues what the witness saw before. A
cosignature is one more signature line of the note:

    — <witness> <base64(4 bytes of key id, 8 bytes of time, 64 bytes of signature)>

over "cosignature/v1", "time <seconds since 1970>" and the note's text, each with its newline. The key id is
SHA-256(name, newline, 0x04, raw key)[:4]. A witness is named `cloister/<federation>/<role>/<name>`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.errors import ConfigError, InternalError, VerificationError
from privacy.ledger.checkpoint import parse_note, signature_line
from privacy.ledger.clock import FIRST_UTC, LAST_UTC

_TIME_BYTES, _SIGNATURE_BYTES = 8, 64
_SECONDS = range(int(FIRST_UTC.timestamp()), int(LAST_UTC.timestamp()) + 1)  # all that a cosignature may state
_NEXT = "Leave the cosignature out, and ask the witness for it again."


@dataclass(frozen=True)
class Cosignature:
    """Who cosigned, and when they say they did."""

    witness: str
    utc: datetime


def witness_name(federation: str, role: str, name: str) -> str:
    """How a witness is called in a note."""
    return f"cloister/{federation}/{role}/{name}"


def cosigner_id(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a note names a witness' key (C2SP tlog-cosignature, Format)."""
    return hashlib.sha256(name.encode() + b"\n\x04" + public_key).digest()[:4]


def cosign(note: str, witness: str, public_key: bytes, sign: Callable[[bytes], bytes], now: datetime) -> str:
    """The signature line of a witness for a note, without its newline. `sign` is Ed25519 by this raw public key.

    What the note says was checked before: `privacy.ledger.witness`. Raises InternalError if the key did not sign,
    ConfigError for a clock that shows no time (privacy.ledger.clock).
    """
    seconds = int(now.timestamp())
    if seconds not in _SECONDS:
        raise ConfigError("cosignature", f"by this machine's clock it is {now.isoformat()}", "Set the clock.")
    signature = sign(_message(parse_note(note).text, seconds))
    line = signature_line(witness, cosigner_id(witness, public_key) + seconds.to_bytes(_TIME_BYTES, "big") + signature)
    if not cosignatures(with_lines(note, [line]), {witness: public_key}):
        raise InternalError("cosignature", "the witness' key did not sign it", "Report this; nothing was sent.")
    return line


def cosignatures(note: str, keys: Mapping[str, bytes]) -> tuple[Cosignature, ...]:
    """The cosignatures of a note by these witnesses (raw keys by name), in the note's order.

    Lines of others are ignored. Raises VerificationError for a line that names one of these keys and is not by it, or
    of a time that is none (privacy.ledger.clock), or for two lines of one witness.
    """
    parsed = parse_note(note)
    found: dict[str, Cosignature] = {}
    for name, blob in parsed.signatures:
        key = keys.get(name)
        if key is None or blob[:4] != cosigner_id(name, key):
            continue
        if name in found:
            raise VerificationError(f"cosignature by {name}", "stands in the note twice", _NEXT)
        found[name] = Cosignature(name, _checked(name, blob[4:], parsed.text, key))
    return tuple(found.values())


def with_lines(note: str, lines: list[str]) -> str:
    """The note with more signature lines."""
    return note + "".join(f"{line}\n" for line in lines)


def _checked(name: str, blob: bytes, text: str, key: bytes) -> datetime:
    what = f"cosignature by {name}"
    seconds = int.from_bytes(blob[:_TIME_BYTES], "big")
    if len(blob) != _TIME_BYTES + _SIGNATURE_BYTES or seconds not in _SECONDS:
        raise VerificationError(what, "is not a time and a signature", _NEXT)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(blob[_TIME_BYTES:], _message(text, seconds))
    except InvalidSignature as error:
        raise VerificationError(what, "is not by the key that it names", _NEXT) from error
    return datetime.fromtimestamp(seconds, UTC)


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
