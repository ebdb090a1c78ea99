"""Changes that no one person can make: of a lifetime budget, of a sub-cap that is widened, of who may approve these.

Administrators are people with an Ed25519 key of their own, which no daemon holds. A change is a statement about one log
as it stands: it names the log, the key that signs it, how many changes it had before, the old value and the new one,
and the time until which it is good, so that a signature is good for one change, once, and not for ever. Its texts are
printable, so that no screen shows another change than the one that is signed.
Two different people sign it, over `type NUL body` as all statements are signed (privacy/statement.py). Adding a person
also takes the new key's own signature, and, once there were two, those of two others; before that a steward alone adds
them, which the ledger shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from immutables import Map
from pydantic import Field

from privacy.canonical import canonical_json
from privacy.document import Document
from privacy.errors import Refused, VerificationError
from privacy.fields import Hex32, Hex64, Name, PositiveReal, Printable, Strict, Utc
from privacy.ledger.clock import instant

TYPE: Final = "cloister/v1/two-person-change"
QUORUM: Final = 2
MOST_GOOD: Final = timedelta(days=366)
MOST_APPROVALS: Final = 16
MOST_SIGNERS: Final = 128

_SIGN = "Two people sign it: `cloister silo admins sign FILE --key KEY`."


class BudgetChange(Strict):
    """Another lifetime cap for a population; its delta and unit stay."""

    kind: Literal["budget"] = "budget"
    population: Name
    epsilon_before: PositiveReal
    epsilon: PositiveReal


class SubCapChange(Strict):
    """Another cap for one purpose of a population, or (null) for every single job; null epsilons mean none."""

    kind: Literal["sub-cap"] = "sub-cap"
    population: Name
    purpose: Printable | None
    epsilon_before: PositiveReal | None
    epsilon: PositiveReal | None

    @property
    def tightens(self) -> bool:
        """Whether less may be spent than before: a steward alone may do that."""
        return self.epsilon is not None and (self.epsilon_before is None or self.epsilon < self.epsilon_before)


class AdminChange(Strict):
    """A person's key is one of those whose signatures count from here on, or no more."""

    kind: Literal["admin"] = "admin"
    action: Literal["add", "remove"]
    person: Name
    public_key: Hex32  # raw Ed25519


Change = Annotated[BudgetChange | SubCapChange | AdminChange, Field(discriminator="kind")]


class ChangeStatement(Strict):
    """What people sign. `number` is how many policies and changes the log had before, `key` the one that signs it."""

    type: Literal["cloister/v1/two-person-change"] = TYPE
    log: Printable
    key: Hex32  # raw Ed25519
    number: Annotated[int, Field(ge=0, le=2**53 - 1)]
    change: Change
    reason: Printable
    expires: Utc  # recorded later than this, it counts nothing

    def message(self) -> bytes:
        """The bytes that are signed."""
        return self.type.encode() + b"\x00" + canonical_json(self.model_dump(mode="json"))


class Approval(Strict):
    """One person's signature."""

    person: Name
    signature: Hex64


Approvals = Annotated[tuple[Approval, ...], Field(strict=False, max_length=MOST_APPROVALS)]


class Proposal(Document):
    """A change on its way from hand to hand: the statement, who may sign it, who has so far.

    `signers` are names and keys as they were on record, and a new person's own, so that a wrong one is told where it is
    typed. Nobody signs them: whose signatures count, the ledger says, when the change is recorded.
    """

    what: ClassVar[str] = "proposal"
    next_step: ClassVar[str] = "Make a new one; it holds no secret and changes nothing by itself."
    most_bytes: ClassVar[int] = 32 * 1024

    statement: ChangeStatement
    signers: Annotated[dict[Name, Hex32], Field(max_length=MOST_SIGNERS)]  # raw Ed25519 keys, by person
    approvals: Approvals = ()

    def key_of(self, person: str) -> str:
        """The key (raw, hex) that this person signs with. Raises Refused for whoever is not among them."""
        if person not in self.signers:
            why = f"{person!r} is none of those who may sign it: {', '.join(sorted(self.signers)) or 'nobody'}"
            raise Refused(f"proposal {self.statement.number}", why, "Give your name as it stands there.")
        return self.signers[person]

    def check_key(self, person: str, public_key: bytes) -> None:
        """This person signs with this key. Raises Refused."""
        if self.key_of(person) != public_key.hex():
            why = f"this is not the key that is on record for {person}, {self.signers[person][:16]}"
            raise Refused(f"proposal {self.statement.number}", why, "Name the file of your own key.")

    def signed(self, person: str, sign: Callable[[bytes], bytes]) -> "Proposal":
        """With this person's signature, in the place of an earlier one of theirs. Raises as `check_key` does."""
        signature, key = sign(self.statement.message()), bytes.fromhex(self.key_of(person))
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, self.statement.message())
        except InvalidSignature as error:
            why = f"the signature is not by the key that is on record for {person}"
            raise Refused(f"proposal {self.statement.number}", why, "Name the file of your own key.") from error
        others = (approval for approval in self.approvals if approval.person != person)
        approvals = (*others, Approval(person=person, signature=signature.hex()))
        return Proposal(statement=self.statement, signers=self.signers, approvals=approvals)


@dataclass(frozen=True)
class Governance:
    """Whose signatures count, which keys ever did, and how many policies and changes a log has had."""

    administrators: Map[str, str] = Map()  # raw public key in hex, by person
    keys: frozenset[str] = frozenset()
    guarded: bool = False  # there were two once: from then on nobody is added by one person
    number: int = 0

    def counted(self) -> "Governance":
        """After a policy, or a change that touches no administrator."""
        return Governance(self.administrators, self.keys, self.guarded, self.number + 1)


@dataclass(frozen=True)
class Place:
    """Where and when a change is put on record: the log's origin, the key (raw, hex) that signs it then, the time."""

    log: str
    key: str
    utc: str


def signers_of(governance: Governance, change: BudgetChange | SubCapChange | AdminChange) -> dict[str, str]:
    """Who may sign this change: their keys, by person."""
    if isinstance(change, AdminChange) and change.action == "add":
        others = governance.administrators if governance.guarded else {}
        return {**others, change.person: change.public_key}
    return dict(governance.administrators)


def changed(
    governance: Governance, statement: ChangeStatement, approvals: Sequence[Approval], place: Place
) -> Governance:
    """The governance after this change, recorded at this place, if it is for there and has the signatures it takes.

    Raises Refused naming what is missing.

    What the change says of a budget is checked by `privacy.budget_change`; here is only who may make it.
    """
    what = f"change {statement.number} of {statement.log}"
    _check_place(statement, place, what)
    if statement.number != governance.number:
        why = f"it was signed when there had been {statement.number} changes, and there were {governance.number}"
        raise Refused(what, why, "Something else was changed meanwhile: propose it anew, on what is so now.")
    match statement.change:
        case AdminChange(action="add") as change:
            return _added(governance, change, statement, approvals, what)
        case AdminChange() as change:
            return _removed(governance, change, statement, approvals, what)
        case SubCapChange() as change if change.tightens and not approvals:
            return governance.counted()
        case _:
            _require_two(governance, statement, approvals, what)
            return governance.counted()


def _check_place(statement: ChangeStatement, place: Place, what: str) -> None:
    if statement.log != place.log:
        raise Refused(what, f"this log is {place.log}", "Record it there, or propose it here anew.")
    if statement.key != place.key:
        why = f"it was proposed when key {statement.key[:16]} signed this log, and {place.key[:16]} does now"
        raise Refused(what, why, "Propose it anew.")
    try:
        left = instant(statement.expires) - instant(place.utc)
    except VerificationError as error:
        raise Refused(what, f"of its time: {error.why}", "Propose it anew.") from error
    if left > MOST_GOOD:
        why = f"it would be good until {statement.expires}, and no change is for more than {MOST_GOOD.days} days"
        raise Refused(what, why, "Propose it anew.")
    if left < timedelta():
        raise Refused(what, f"it was good until {statement.expires}, and it is {place.utc}", "Propose it anew.")


def _added(
    governance: Governance, change: AdminChange, statement: ChangeStatement, approvals: Sequence[Approval], what: str
) -> Governance:
    if change.person in governance.administrators:
        raise Refused(what, f"{change.person} is an administrator already", "Remove the old key first.")
    if change.public_key in governance.keys:
        raise Refused(what, "this key was an administrator's before", "Each person makes a key of their own.")
    own = [approval for approval in approvals if approval.person == change.person]
    if len(own) != 1:
        raise Refused(what, f"{change.person} has not signed it with the new key", _SIGN)
    _check_signature(own[0], change.public_key, statement, what)
    others = [approval for approval in approvals if approval.person != change.person]
    if governance.guarded:
        _require_two(governance, statement, others, what)
    elif others:
        raise Refused(what, f"{others[0].person}'s signature is not needed", "The first two are added one by one.")
    administrators = governance.administrators.set(change.person, change.public_key)
    guarded = governance.guarded or len(administrators) >= QUORUM
    return Governance(administrators, governance.keys | {change.public_key}, guarded, governance.number + 1)


def _removed(
    governance: Governance, change: AdminChange, statement: ChangeStatement, approvals: Sequence[Approval], what: str
) -> Governance:
    if governance.administrators.get(change.person) != change.public_key:
        raise Refused(what, f"{change.person} is no administrator with this key", "`cloister silo admins list`.")
    if len(governance.administrators) <= QUORUM:
        raise Refused(what, "fewer than two would be left", "Add another person first.")
    _require_two(governance, statement, approvals, what)
    left = governance.administrators.delete(change.person)
    return Governance(left, governance.keys, governance.guarded, governance.number + 1)


def _require_two(governance: Governance, statement: ChangeStatement, approvals: Sequence[Approval], what: str) -> None:
    """Signatures of two different administrators, and none that is wrong."""
    seen: set[str] = set()
    for approval in approvals:
        key = governance.administrators.get(approval.person)
        if key is None:
            raise Refused(
                what, f"{approval.person}, who signed it, is no administrator", "`cloister silo admins list`."
            )
        if approval.person in seen:
            raise Refused(what, f"{approval.person} signed it twice", "Two different people must.")
        _check_signature(approval, key, statement, what)
        seen.add(approval.person)
    if len(seen) < QUORUM:
        raise Refused(what, f"{len(seen)} of the {QUORUM} administrators that it takes have signed it", _SIGN)


def _check_signature(approval: Approval, key: str, statement: ChangeStatement, what: str) -> None:
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(bytes.fromhex(approval.signature), statement.message())
    except InvalidSignature as error:
        why = f"{approval.person}'s signature is not of this change by the key on record"
        raise Refused(what, why, "Have it signed again, with the right key.") from error


def change_text(change: BudgetChange | SubCapChange | AdminChange) -> str:
    """The change in a sentence, for whoever is asked to sign it."""
    match change:
        case BudgetChange():
            return f"{change.population}: lifetime epsilon from {change.epsilon_before:g} to {change.epsilon:g}"
        case SubCapChange():
            whose = "every single job" if change.purpose is None else f"purpose {change.purpose!r}"
            before, after = (
                "no cap" if epsilon is None else f"epsilon {epsilon:g}"
                for epsilon in (change.epsilon_before, change.epsilon)
            )
            return f"{change.population}, {whose}: from {before} to {after}"
        case AdminChange():
            return f"{change.action} administrator {change.person}, key {change.public_key}"


def statement_text(statement: ChangeStatement) -> str:
    """All that is signed, for whoever is asked to."""
    return (
        f"{statement.log}, which key {statement.key} signs, as of change {statement.number}\n"
        f"{change_text(statement.change)}\nbecause {statement.reason}\ngood until {statement.expires}"
    )
