"""Rounds with one-time keys: what the suite `ckks-multikey` says beside the steps that both suites share.

Step numbers are those of docs/reference/protocol.md. Every check raises ProtocolError naming the sender and the step;
none returns False. Nothing here opens a mail or a share (privacy.keyed_mail does).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.canonical import digest
from privacy.errors import ProtocolError
from privacy.mail_key import read_mail_key
from privacy.plan import Hex32, JobPlan, RoundContext
from privacy.roll import MailDigest, require_plan
from privacy.statement import RoundStatement, Signed, verify
from privacy.transcript import require_round

ROUND_ROLL_LABEL = "cloister/v1/round-roll"

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{2432}$")]
Mails = Annotated[tuple[MailDigest, ...], Field(strict=False, max_length=100)]


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


class KeyedUpdateHeader(RoundStatement):
    """Step 1: everything about an update but its bytes, and who was sent which share of its one-time key.

    `roll` is the digest of the joins whose keys the mails were sealed to: members of one sum used the same.
    """

    type: Literal["cloister/v1/keyed-update"] = "cloister/v1/keyed-update"
    values: Annotated[int, Field(gt=0)]
    roll: Hex32
    residues_root: Hex32
    mails: Mails


class Release(RoundStatement):
    """Step 6: the sum of this silo's shares over the members of the certified sum, and its key in a mail for each.

    `body_sha256` is of the sealed sum of shares, `mails` of the mails that carry its key.
    """

    type: Literal["cloister/v1/release"] = "cloister/v1/release"
    transcript: Hex32
    body_sha256: Hex32
    mails: Mails


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
    """Step 1: a header is its silo's, of this round, of the planned length, with one share mail for everybody."""
    header = verify(signed, KeyedUpdateHeader, plan.identity_keys)
    require_plan(plan, header)
    require_round(ctx, header)
    why = ""
    if header.values != plan.values:
        why = f"covers {header.values} values; the plan has {plan.values}"
    elif header.roll != roll.digest.hex():
        why = "was made for other joins of this round"
    elif tuple(mail.to for mail in header.mails) != ctx.participants:
        why = "does not have exactly one share mail for every participant, in order"
    if why:
        raise ProtocolError("update header", why, "It was not accepted.", sender=header.silo, step="submit")
    return header


def check_release(
    plan: JobPlan, ctx: RoundContext, transcript: bytes, receivers: Iterable[str], signed: Signed
) -> Release:
    """Step 6: a release is its silo's, for this very transcript, with its key in one mail for every receiver."""
    release = verify(signed, Release, plan.identity_keys)
    require_plan(plan, release)
    require_round(ctx, release)
    why = ""
    if release.transcript != transcript.hex():
        why = f"is for another transcript of round {ctx.round_number} than the certified one"
    elif tuple(mail.to for mail in release.mails) != tuple(receivers):
        why = "does not have exactly one mail for every receiver, in order"
    if why:
        raise ProtocolError(
            "release", why, "It was not used; keep it as evidence.", sender=release.silo, step="release"
        )
    return release


def check_mail(mails: Iterable[MailDigest], to: str, sealed: bytes, *, sender: str, step: str) -> None:
    """A mail is the one whose digest its sender signed. Raises ProtocolError."""
    signed = {mail.to: mail.sha256 for mail in mails}
    if signed.get(to) != hashlib.sha256(sealed).hexdigest():
        raise ProtocolError(
            f"mail from {sender} to {to}",
            "is not the one that was signed",
            "It was not opened.",
            sender=sender,
            step=step,
        )


def _wrong(plan: JobPlan, ctx: RoundContext, why: str) -> ProtocolError:
    return ProtocolError(
        f"round {ctx.round_number}", why, "Nothing was trained on it.", sender=plan.aggregator.name, step="announce"
    )
