"""Signed checkpoints: C2SP tlog-checkpoint inside a C2SP signed-note, Ed25519.

    cloister/<federation>/<institution>
    <number of entries>
    <base64 root hash>
    <empty line>
    — <the same name> <base64(4 bytes of key id, 64 bytes of signature)>

Signature lines of other keys (witnesses) may follow; they are kept and, having other keys, ignored here. No
extension lines. Checks raise VerificationError.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.canonical import DIGEST_BYTES
from privacy.errors import InternalError, VerificationError
from privacy.fields import NAME

MAX_NOTE_BYTES = 65_536  # a hundred witnesses' lines fit
_SIGNATURE = re.compile(r"— ([^\s+]{1,200}) ([A-Za-z0-9+/]{4,400}={0,2})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_NEXT = "Get the checkpoint again from the institution, and its public key from its certificate."


@dataclass(frozen=True)
class Checkpoint:
    """What a log commits to: its origin, how many entries it has, their Merkle root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text, which is what is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def log_origin(federation: str, institution: str) -> str:
    """The name of an institution's log. Raises InternalError for what are not names."""
    if not (NAME.fullmatch(federation) and NAME.fullmatch(institution)):
        raise InternalError("log origin", "federation and institution must be names", "Report this.")
    return f"cloister/{federation}/{institution}"


def key_id(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a note names an Ed25519 key (C2SP signed-note, Signature types)."""
    return hashlib.sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]


def sign_checkpoint(checkpoint: Checkpoint, public_key: bytes, sign: Callable[[bytes], bytes]) -> str:
    """The signed note. `sign` is Ed25519 by the private half of `public_key` (raw 32 bytes).

    Raises InternalError if what `sign` returns does not verify under `public_key`.
    """
    text = checkpoint.text()
    signature = sign(text.encode())
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text.encode())
    except InvalidSignature as error:
        raise InternalError(
            "checkpoint", "the log's key did not sign it", "Report this; nothing was signed."
        ) from error
    line = signature_line(checkpoint.origin, key_id(checkpoint.origin, public_key) + signature)
    return f"{text}\n{line}\n"


def open_checkpoint(note: str, origin: str, public_key: bytes) -> Checkpoint:
    """The checkpoint a note carries, if this key signed it for this origin."""
    parsed = parse_note(note)
    checkpoint, text, signatures = parsed.checkpoint, parsed.text, parsed.signatures
    if checkpoint.origin != origin:
        raise VerificationError("checkpoint", f"it is of {checkpoint.origin!r}, not of {origin!r}", _NEXT)
    expected = key_id(origin, public_key)
    ours = [blob[4:] for name, blob in signatures if name == origin and blob[:4] == expected]
    if len(ours) != 1:
        raise VerificationError(f"checkpoint of {checkpoint.size} entries", "the log's key did not sign it", _NEXT)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(ours[0], text.encode())
    except InvalidSignature as error:
        raise VerificationError(f"checkpoint of {checkpoint.size} entries", "its signature is wrong", _NEXT) from error
    return checkpoint


def split_notes(text: str) -> tuple[str, ...]:
    """The notes of a file in which they follow one another with an empty line between."""
    if not text:
        return ()
    parts = text.split("\n\n")
    if len(parts) % 2 or not text.endswith("\n") or text.endswith("\n\n"):
        raise VerificationError("file of checkpoints", "it is not a list of signed notes", _NEXT)
    parts[-1] = parts[-1].removesuffix("\n")
    return tuple(f"{body}\n\n{lines}\n" for body, lines in zip(parts[::2], parts[1::2], strict=True))


def join_notes(notes: tuple[str, ...]) -> str:
    """The file that `split_notes` reads."""
    return "\n".join(notes)


@dataclass(frozen=True)
class Note:
    """A signed note taken apart, nothing of it verified: what it says, the text that is signed, its signature lines."""

    checkpoint: Checkpoint
    text: str
    signatures: tuple[tuple[str, bytes], ...]


def parse_note(note: str) -> Note:
    """Take a note apart. Raises VerificationError for what is none."""
    body, separator, lines = note.partition("\n\n")
    fields = body.split("\n")
    root = _base64(fields[2]) if len(fields) == 3 else b""
    matches = [_SIGNATURE.fullmatch(line) for line in lines.removesuffix("\n").split("\n")]
    sound = (
        len(note) <= MAX_NOTE_BYTES
        and bool(separator)
        and lines.endswith("\n")
        and len(root) == DIGEST_BYTES
        and _SIZE.fullmatch(fields[1]) is not None
    )
    signatures = [(match[1], _base64(match[2])) for match in matches if match is not None]
    if not sound or not all(matches) or not all(blob for _, blob in signatures):
        raise VerificationError("checkpoint", "it is not a signed note of origin, size and root", _NEXT)
    return Note(Checkpoint(fields[0], int(fields[1]), root), body + "\n", tuple(signatures))


def signature_line(name: str, blob: bytes) -> str:
    """A signature line, without its newline."""
    return f"— {name} {base64.b64encode(blob).decode()}"


def _base64(text: str) -> bytes:
    """The bytes, or none if the text is not exactly their encoding."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode() == text else b""
