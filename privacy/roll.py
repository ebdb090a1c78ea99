"""Who takes part in a job, and the deal of the cohort's key: what is said of a job before its rounds, and its checks.

Every check raises ProtocolError naming the sender and the step; none returns False.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privacy.canonical import digest
from privacy.errors import ProtocolError
from privacy.fields import Hex32, Name, Strict
from privacy.mail_key import read_mail_key
from privacy.plan import JobPlan
from privacy.statement import Signed, SiloStatement, Statement, verify

ROLL_LABEL = "cloister/v1/roll"
DEALER_LABEL = "cloister/v1/dealer"


class JobJoin(SiloStatement):
    """A silo takes part in the job, with a fresh HPKE key for the cohort's key."""

    type: Literal["cloister/v1/job-join"] = "cloister/v1/job-join"
    mail_key: Annotated[str, Field(pattern=r"^[0-9a-f]{2432}$")]

    @model_validator(mode="after")
    def _sealable(self) -> Self:
        read_mail_key(bytes.fromhex(self.mail_key), self.silo)
        return self


class JobRefusal(SiloStatement):
    """A silo takes no part. The reason is a code: the particulars stay in its own log."""

    type: Literal["cloister/v1/job-refusal"] = "cloister/v1/job-refusal"
    reason: Literal["steward", "policy", "budget", "cannot-run"]


class MailDigest(Strict):
    """One mail of a deal."""

    to: Name
    sha256: Hex32


class KeyDeal(SiloStatement):
    """The dealer's word on the cohort's key: one key, whose commitment all check against what they were mailed."""

    type: Literal["cloister/v1/key-deal"] = "cloister/v1/key-deal"
    roll: Hex32
    key_commitment: Hex32
    mails: tuple[MailDigest, ...] = Field(strict=False)


@dataclass(frozen=True)
class Roll:
    """The joins of a job, checked, sorted by name: its members and their mail keys. Fixed before the deal."""

    joins: tuple[Signed, ...]
    mail_keys: Mapping[str, bytes]
    digest: bytes

    @property
    def members(self) -> tuple[str, ...]:
        """The silos of the job, sorted."""
        return tuple(self.mail_keys)


def check_roll(plan: JobPlan, joins: Iterable[Signed]) -> Roll:
    """Check every join and that there are enough; the same joins give the same roll whatever their order."""
    signed_by = {}
    keys: dict[str, bytes] = {}
    for signed in joins:
        join = verify(signed, JobJoin, plan.identity_keys)
        require_plan(plan, join)
        if join.silo in keys:
            raise ProtocolError("roll", f"{join.silo} joined twice", "The roll was not accepted.", step="join")
        keys[join.silo] = bytes.fromhex(join.mail_key)
        signed_by[join.silo] = signed
    if len(keys) < plan.least_participants:
        raise ProtocolError(
            "roll",
            f"has {len(keys)} silos; of {len(plan.cohort.roster)} in the roster it takes {plan.least_participants}",
            "The job waits for more silos.",
            step="join",
        )
    names = sorted(keys)
    ordered = tuple(signed_by[name] for name in names)
    return Roll(ordered, {name: keys[name] for name in names}, digest(ROLL_LABEL, *(s.body for s in ordered)))


def dealer_of(plan_digest: bytes, roll: Roll) -> str:
    """The member that makes the cohort's key: members[H(plan, roll) mod n].

    Not a fair draw: the aggregator decides which joins make the roll, and the last to join can try mail keys. A dealer
    learns nothing that other members don't: all hold the key.
    """
    number = int.from_bytes(digest(DEALER_LABEL, plan_digest, roll.digest), "big")
    return roll.members[number % len(roll.members)]


def check_deal(plan: JobPlan, roll: Roll, deal: Signed, mails: Mapping[str, bytes]) -> KeyDeal:
    """Check that the deal is the dealer's, for this roll, with one mail for every other member.

    `mails` are the mails at hand (all of them at the aggregator, one's own at a silo); each must have the digest the
    dealer signed.
    """
    statement = verify(deal, KeyDeal, plan.identity_keys)
    require_plan(plan, statement)
    dealer = dealer_of(plan.digest(), roll)

    def wrong(why: str) -> ProtocolError:
        return ProtocolError("key deal", why, "It was not accepted.", sender=statement.silo, step="deal")

    if statement.silo != dealer:
        raise wrong(f"comes from {statement.silo}; this roll's dealer is {dealer}")
    if statement.roll != roll.digest.hex():
        raise wrong("is for another roll")
    digests = {mail.to: mail.sha256 for mail in statement.mails}
    if sorted(digests) != [name for name in roll.members if name != dealer] or len(digests) != len(statement.mails):
        raise wrong("does not have exactly one mail for every other member")
    for name, sealed in mails.items():
        if digests.get(name) != hashlib.sha256(sealed).hexdigest():
            raise wrong(f"the mail to {name} is not the one that was signed")
    return statement


def require_plan(plan: JobPlan, statement: Statement) -> None:
    """The statement must be about this plan. Raises ProtocolError."""
    if statement.plan != plan.digest().hex():
        raise ProtocolError(
            f"statement {statement.type}", "is about another job", "It was not accepted.", sender=statement.signer
        )
