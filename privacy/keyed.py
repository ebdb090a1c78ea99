"""Rounds with one-time keys: what the suite `ckks-multikey` says beside the steps that both suites share.

Step numbers are those of docs/reference/protocol.md. Every check raises ProtocolError naming the sender and the step;
none returns False. Nothing here opens a mail or a share (privacy.keyed_mail does).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.canonical import DIGEST_BYTES, digest
from privacy.envelope import KeyedUpdateHeader
from privacy.errors import ProtocolError
from privacy.fields import Hex32
from privacy.mail_key import read_mail_key
from privacy.plan import JobPlan, RoundContext
from privacy.roll import Roll, require_plan
from privacy.statement import RoundStatement, Signed, verify
from privacy.transcript import HeaderCheck, require_round

ROUND_ROLL_LABEL = "cloister/v1/round-roll"
MAILS_LABEL = "cloister/v1/mails"

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{2432}$")]


class KeyedRoundJoin(RoundStatement):
    """Step 0: a silo takes part in this round, with two HPKE keys made for it: for shares, and for what is released."""

    type: Literal["cloister/v1/keyed-round-join"] = "cloister/v1/keyed-round-join"
    share_key: PublicKey
    open_key: PublicKey

    @model_validator(mode="after")
    def _sealable(self) -> Self:
        if self.share_key == self.open_key:
            raise ValueError("share_key and open_key must be two keys: one outlives the other")
        for key in (self.share_key, self.open_key):
            read_mail_key(bytes.fromhex(key), self.silo)
        return self


class Release(RoundStatement):
    """Step 6: the sum of this silo's shares over the members of the certified sum, and its key in a mail for each.

    `body_sha256` is of the sealed sum of shares, `mails` the `mails_digest` of the mails that carry its key, one for
    each of `receivers_of`.
    """

    type: Literal["cloister/v1/release"] = "cloister/v1/release"
    transcript: Hex32
    body_sha256: Hex32
    mails: Hex32


@dataclass(frozen=True)
class RoundRoll:
    """The joins of a round, checked: everybody's keys, in the order of the participant list."""

    joins: tuple[Signed, ...]
    share_keys: Mapping[str, bytes]
    open_keys: Mapping[str, bytes]
    digest: bytes

    def point(self, silo: str) -> int:
        """Where a silo's shares are taken: its place in the participant list, counted from 1."""
        return list(self.share_keys).index(silo) + 1

    @property
    def points(self) -> range:
        """Everybody's, in order."""
        return range(1, len(self.joins) + 1)


def receivers_of(roll: Roll, round_roll: RoundRoll) -> dict[str, bytes]:
    """Whom releases are sealed to, in order, by public key: the participants under the keys they made for it.

    Then the other members of the job's roll, under their mail keys of the job: or they could not follow any more.
    """
    others = {name: key for name, key in roll.mail_keys.items() if name not in round_roll.open_keys}
    return {**round_roll.open_keys, **others}


def check_round_roll(plan: JobPlan, ctx: RoundContext, joins: Iterable[Signed]) -> RoundRoll:
    """Step 0, its end: exactly one join of every participant, to this context; no key occurs twice."""
    found = {}
    for signed in joins:
        join = verify(signed, KeyedRoundJoin, plan.identity_keys)
        require_plan(plan, join)
        require_round(ctx, join)
        if join.silo in found:
            raise _wrong(plan, ctx, f"has two joins of {join.silo}")
        found[join.silo] = (signed, bytes.fromhex(join.share_key), bytes.fromhex(join.open_key))
    missing = [name for name in ctx.participants if name not in found]
    if missing:
        raise _wrong(plan, ctx, f"goes on without a join of {', '.join(missing)}")
    ordered = [found[name] for name in ctx.participants]
    keys = [key for _, *pair in ordered for key in pair]
    if len(set(keys)) != len(keys):
        raise _wrong(plan, ctx, "has one key in two joins: somebody copied another silo's")
    in_order = tuple(join for join, _, _ in ordered)
    return RoundRoll(
        in_order,
        {name: found[name][1] for name in ctx.participants},
        {name: found[name][2] for name in ctx.participants},
        digest(ROUND_ROLL_LABEL, *(join.body for join in in_order)),
    )


def check_keyed_header(plan: JobPlan, ctx: RoundContext, roll: RoundRoll, signed: Signed) -> KeyedUpdateHeader:
    """Step 1: a header is its silo's, of this round, of the planned length, with shares for this round's joins."""
    header = verify(signed, KeyedUpdateHeader, plan.identity_keys)
    require_plan(plan, header)
    require_round(ctx, header)
    why = ""
    if header.values != plan.sent_values:
        why = f"covers {header.values} values; the plan has {plan.sent_values}"
    elif header.roll != roll.digest.hex():
        why = "was made for other joins of this round"
    if why:
        raise ProtocolError("update header", why, "It was not accepted.", sender=header.silo, step="submit")
    return header


def keyed_headers(plan: JobPlan, ctx: RoundContext, roll: RoundRoll) -> HeaderCheck:
    """What `check_commit` checks headers with."""
    return lambda signed: check_keyed_header(plan, ctx, roll, signed)


def check_release(
    plan: JobPlan, ctx: RoundContext, transcript: bytes, signed: Signed, body: bytes | None = None
) -> Release:
    """Step 6: a release is its silo's, a participant's, for this very transcript, and of this body if it is at hand."""
    release = verify(signed, Release, plan.identity_keys)
    require_plan(plan, release)
    require_round(ctx, release)
    why = ""
    if release.transcript != transcript.hex():
        why = f"is for another transcript of round {ctx.round_number} than the certified one"
    elif body is not None and hashlib.sha256(body).hexdigest() != release.body_sha256:
        why = "comes with another body than was signed"
    if why:
        raise ProtocolError(
            "release", why, "It was not used; keep it as evidence.", sender=release.silo, step="release"
        )
    return release


def mail_digests(mails: Iterable[bytes]) -> bytes:
    """SHA-256 of each mail, one after another."""
    return b"".join(hashlib.sha256(mail).digest() for mail in mails)


def mails_digest(digests: bytes) -> str:
    """What a statement says of mails in the order of their receivers, given their digests: 32 bytes in hex."""
    return digest(MAILS_LABEL, digests).hex()


def require_mails(stated: str, digests: bytes, receivers: int, *, sender: str, step: str) -> None:
    """There is one digest for each receiver, and they are those that the sender signed. Raises ProtocolError."""
    if len(digests) != DIGEST_BYTES * receivers or mails_digest(digests) != stated:
        why = f"are not the {receivers} that were signed"
        raise ProtocolError(f"mails of {sender}", why, "None was opened.", sender=sender, step=step)


def check_mail(
    stated: str, digests: bytes, receivers: int, place: int, sealed: bytes, *, sender: str, step: str
) -> None:
    """A mail is the one at its receiver's place, counted from 0, among those that its sender signed."""
    require_mails(stated, digests, receivers, sender=sender, step=step)
    if digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)] != hashlib.sha256(sealed).digest():
        why = "is not the one that was signed"
        raise ProtocolError(f"mail from {sender}", why, "It was not opened.", sender=sender, step=step)


def _wrong(plan: JobPlan, ctx: RoundContext, why: str) -> ProtocolError:
    return ProtocolError(
        f"round {ctx.round_number}", why, "Nothing was trained on it.", sender=plan.aggregator.name, step="announce"
    )
