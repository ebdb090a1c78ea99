"""What travels sealed in a round with one-time keys: shares of keys (step 1), sums of shares (steps 6 and 7).

A share goes to one participant by HPKE under its `share_key`. A sum of shares is sealed once, AES-256-GCM under a key
made for it, and that key goes to each receiver by HPKE. Every mail and body is bound to the round's context, to what
it belongs to, and to sender and receiver; that it is the sealed one is said by digests in signed statements, which are
compared first (privacy.keyed.check_mail).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.canonical import digest
from privacy.errors import ProtocolError
from privacy.keyed import RoundRoll
from privacy.mail import MailKey, seal_mail
from privacy.plan import RoundContext

SHARE_LABEL = "cloister/v1/share"
RELEASE_LABEL = "cloister/v1/release-key"
BODY_LABEL = "cloister/v1/release-body"
KEY_BYTES = 32
_NONCE = bytes(12)  # each key seals one body


def _share_binding(ctx: RoundContext, roll: RoundRoll) -> bytes:
    """What share mails are bound to: the round, and the joins whose keys they are sealed to."""
    return digest(SHARE_LABEL, ctx.digest(), roll.digest)


def seal_shares(ctx: RoundContext, roll: RoundRoll, sender: str, shares: Sequence[bytes]) -> list[bytes]:
    """One mail for every participant, in order: `shares` are theirs, in the same order."""
    binding = _share_binding(ctx, roll)
    return [
        seal_mail(share, key, binding=binding, sender=sender, receiver=to)
        for (to, key), share in zip(roll.share_keys.items(), shares, strict=True)
    ]


def open_share(key: MailKey, ctx: RoundContext, roll: RoundRoll, sealed: bytes, *, sender: str, to: str) -> bytes:
    """The encoded share in a mail. Raises ProtocolError naming the sender."""
    return key.open(sealed, binding=_share_binding(ctx, roll), sender=sender, receiver=to, step="fingerprint")


@dataclass(frozen=True)
class SealedRelease:
    """A sum of shares, sealed: the body, and the mails that carry its key, in the order of their receivers."""

    body: bytes
    mails: tuple[bytes, ...]


def seal_release(
    ctx: RoundContext, transcript: bytes, sender: str, shares: bytes, receivers: Mapping[str, bytes]
) -> SealedRelease:
    """Seal an encoded sum of shares for everybody in `receivers` (their public keys, in order)."""
    key = os.urandom(KEY_BYTES)
    body = AESGCM(key).encrypt(_NONCE, shares, _bound(BODY_LABEL, ctx, transcript, sender))
    binding = _bound(RELEASE_LABEL, ctx, transcript, sender)
    mails = (seal_mail(key, public, binding=binding, sender=sender, receiver=to) for to, public in receivers.items())
    return SealedRelease(body, tuple(mails))


def open_release(
    key: MailKey, ctx: RoundContext, transcript: bytes, body: bytes, mail: bytes, *, sender: str, to: str
) -> bytes:
    """The encoded sum of shares that `sender` released. Raises ProtocolError naming it."""
    binding = _bound(RELEASE_LABEL, ctx, transcript, sender)
    opened = key.open(mail, binding=binding, sender=sender, receiver=to, step="release")
    try:
        return AESGCM(opened).decrypt(_NONCE, body, _bound(BODY_LABEL, ctx, transcript, sender))
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            f"release of {sender}", "does not open with the key that was mailed", "It was not used.",
            sender=sender, step="release",
        ) from error  # fmt: skip


def _bound(label: str, ctx: RoundContext, transcript: bytes, sender: str) -> bytes:
    return digest(label, ctx.digest(), transcript, sender.encode())
