"""What travels with an update before its residues, checked against its header: seeds, or share mails.

`ckks-group`: the seeds of all blocks, whose SHA-256 the header states. `ckks-multikey`: one sealed share for every
participant, in order, all of one size, whose digests the header states. Nothing here opens any of it.
"""

import hashlib
from collections.abc import Sequence
from io import BufferedReader

from privacy.canonical import DIGEST_BYTES
from privacy.ckks.layout import Layout
from privacy.ckks.layouts import UpdateLayout
from privacy.envelope import AnyHeader, UpdateHeader
from privacy.errors import ProtocolError
from privacy.keyed import mail_digests, mails_digest
from privacy.mail_key import OVERHEAD_BYTES

SHARE_BYTES = 2  # of a coefficient
KEY_BYTES = 32  # of what a release's mails carry
TAG_BYTES = 16  # of a release's body


def share_mail_bytes(layout: UpdateLayout) -> int:
    """One share mail."""
    return SHARE_BYTES * layout.degree + OVERHEAD_BYTES


def release_body_bytes(layout: UpdateLayout) -> int:
    """A sealed sum of shares."""
    return SHARE_BYTES * layout.degree + TAG_BYTES


def release_mail_bytes() -> int:
    """One mail of a release."""
    return KEY_BYTES + OVERHEAD_BYTES


def attachment_bytes(layout: UpdateLayout, participants: int) -> int:
    """All of an update's attachment."""
    return layout.seed_bytes if isinstance(layout, Layout) else participants * share_mail_bytes(layout)


def attachment_name(header: AnyHeader) -> str:
    """What it is, in a word: the blob's suffix, and how errors call it."""
    return "seeds" if isinstance(header, UpdateHeader) else "mails"


def require_attachment(header: AnyHeader, layout: UpdateLayout, file: BufferedReader) -> None:
    """What came, whole, is what the header states. Raises ProtocolError."""
    if isinstance(header, UpdateHeader):
        right, field = hashlib.file_digest(file, "sha256").hexdigest() == header.seeds_sha256, "seeds_sha256"
    else:
        size = share_mail_bytes(layout)
        right, field = mails_digest(mail_digests(iter(lambda: file.read(size), b""))) == header.mails, "mails"
    if not right:
        why, step = f"are not those of the signed header ({field})", "It was not accepted; resend the stored bytes."
        raise ProtocolError(attachment_name(header), why, step, sender=header.silo, step="submit")


def slices(data: bytes, count: int) -> Sequence[bytes]:
    """`count` mails of one size."""
    size = len(data) // count
    return [data[i * size : (i + 1) * size] for i in range(count)]


def digest_at(digests: bytes, place: int) -> bytes:
    """The digest of the mail at a place, counted from 0."""
    return digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]
