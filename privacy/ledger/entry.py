"""Ledger entries: what an institution puts on record, one frozen model per kind.

A kind's meaning never changes: new meaning is a new kind. No entry has a field for exact record counts, batch sizes,
losses or norms. How entries are encoded: privacy/ledger/codec.py.
Field by field: docs/reference/ledger-format.md.
"""

from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from privacy.accounting import ORDERS
from privacy.budget import FILTER, RefusalCode, RoundKey, Unit
from privacy.fields import Hex32, Hex64, Name, PositiveReal, Printable, Strict, Text, Utc
from privacy.ledger.parts import (
    Adjacency,
    Asked,
    Balance,
    Charge,
    ContributionBound,
    Count,
    Delta,
    Mechanism,
    NonNegative,
    Orders,
    RefusalReason,
    RoundNumber,
)
from privacy.review import Review
from privacy.thresholds import MOST_PARTICIPANTS
from privacy.two_person import AdminChange, Approvals, BudgetChange, ChangeStatement, SubCapChange

SCHEMA: Final = "cloister/ledger/v1"
MAX_ENTRY_BYTES = 64 * 1024


class Entry(Strict):
    """What every entry says: where it stands, whose log it is in, who did it and when. `sequence` counts from 0."""

    schema_name: Literal["cloister/ledger/v1"] = Field(default=SCHEMA, alias="schema")
    sequence: Count = 0  # the store sets it
    institution: Name
    actor: Text
    role: Literal["agent", "steward", "administrator", "aggregator", "coordinator", "auditor"]
    utc: Utc


class RoundScoped(Entry):
    """An entry about one round of one job; the job is named by its plan's digest."""

    job: Hex32
    round: RoundNumber

    @property
    def key(self) -> RoundKey:
        """What the budget calls this round."""
        return RoundKey(self.job, self.round)


class PolicyEntry(Entry):
    """The first budget of a population."""

    kind: Literal["policy"] = "policy"
    population: Name
    unit: Unit
    contribution_bound: ContributionBound
    adjacency: Adjacency = "add-or-remove-one"
    epsilon: PositiveReal
    delta: Delta
    filter: Literal["rdp-fixed-order/v1"] = FILTER
    orders: Orders = ORDERS
    legal_basis: Text | None
    dpia: Text | None
    reason: Text


class ReserveEntry(RoundScoped):
    """Budget set aside for a round, before its first gradient."""

    kind: Literal["reserve"] = "reserve"
    purpose: Text
    population: Name
    dataset: Name
    unit: Unit
    contribution_bound: ContributionBound
    adjacency: Adjacency = "add-or-remove-one"
    mechanism: Mechanism
    charge: Charge
    balance: Balance
    model_sha256: Hex32
    adapter_sha256: Hex32  # the global adapter the round starts from
    software: Text


class CommitEntry(RoundScoped):
    """Budget spent: what ran, or, after a crash, what may have run and is charged in full."""

    kind: Literal["commit"] = "commit"
    population: Name
    outcome: Literal["executed", "presumed"]
    mechanism: Mechanism
    steps_executed: Annotated[int, Field(gt=0)] | None  # noised steps the engine counted; null if presumed
    sampler: Text | None
    precision: Text | None
    rng: Text | None
    charge: Charge
    balance: Balance
    ciphertext_sha256: Hex32 | None  # null if presumed
    software: Text


class RefundEntry(RoundScoped):
    """A reservation given back: nothing of the round was released."""

    kind: Literal["refund"] = "refund"
    population: Name
    reason: Literal["nothing-trained"]
    balance: Balance


class RefuseEntry(Entry):
    """A decision not to take part. A refusal by the budget says what was asked of which population."""

    kind: Literal["refuse"] = "refuse"
    job: Hex32
    round: RoundNumber | None
    decision: Literal["budget", "preflight", "protocol", "steward"]
    population: Name | None
    asked: Asked | None
    balance: Balance | None
    reason: RefusalReason

    @model_validator(mode="after")
    def _whose(self) -> Self:
        if (self.decision == "budget") != (self.reason in get_args(RefusalCode)):
            raise ValueError(f"{self.reason} is no reason for a decision by {self.decision}")
        return self


class ReleaseEntry(RoundScoped):
    """A sealed update was handed to the network. No population means a rehearsal, which touches no data."""

    kind: Literal["release"] = "release"
    population: Name | None
    ciphertext_sha256: Hex32
    recipient: Name


class RoundEntry(RoundScoped):
    """How a round ended, at a silo or at the aggregator."""

    kind: Literal["round"] = "round"
    outcome: Literal["published", "aborted"]
    members: tuple[Name, ...] = Field(strict=False, max_length=MOST_PARTICIPANTS)  # whose updates are in the sum
    transcript_sha256: Hex32 | None
    sum_sha256: Hex32 | None
    adapter_before_sha256: Hex32
    adapter_after_sha256: Hex32 | None
    reason: Text | None


class Governed(Entry):
    """A change that takes people's own signatures: `number` is how many policies and changes the log had before, `key`
    what signed it when this was proposed, and does so still; `expires` is not before `utc`, and no more than 366 days
    after it.
    """

    number: Count
    key: Hex32  # raw Ed25519
    expires: Utc
    reason: Printable
    approvals: Approvals


class BudgetChangeEntry(Governed):
    """Another lifetime cap for a population, signed by two administrators."""

    kind: Literal["budget-change"] = "budget-change"
    population: Name
    epsilon_before: PositiveReal
    epsilon: PositiveReal
    balance: Balance


class SubCapEntry(Governed):
    """A cap for the jobs of one purpose, or (null) for every single job; null epsilons mean none.

    A steward alone may tighten one; all else takes two administrators.
    """

    kind: Literal["sub-cap"] = "sub-cap"
    population: Name
    purpose: Printable | None
    epsilon_before: PositiveReal | None
    epsilon: PositiveReal | None


class AdminEntry(Governed):
    """From here on a person's key is one of those whose signatures count for such changes, or no more."""

    kind: Literal["admin"] = "admin"
    action: Literal["add", "remove"]
    person: Name
    public_key: Hex32


def statement_of(entry: BudgetChangeEntry | SubCapEntry | AdminEntry, log: str) -> ChangeStatement:
    """What the people whose approvals an entry of this log carries have signed."""
    change: BudgetChange | SubCapChange | AdminChange
    match entry:
        case BudgetChangeEntry(population=population, epsilon_before=before, epsilon=epsilon):
            change = BudgetChange(population=population, epsilon_before=before, epsilon=epsilon)
        case SubCapEntry(population=population, purpose=purpose, epsilon_before=was, epsilon=cap):
            change = SubCapChange(population=population, purpose=purpose, epsilon_before=was, epsilon=cap)
        case AdminEntry(action=action, person=person, public_key=public_key):
            change = AdminChange(action=action, person=person, public_key=public_key)
    return ChangeStatement(
        log=log, key=entry.key, number=entry.number, change=change, reason=entry.reason, expires=entry.expires
    )


class ReviewEntry(Entry):
    """An auditor examined part of this ledger (HIPAA 164.312(b): record and examine), and signed what was found."""

    kind: Literal["review"] = "review"
    review: Review
    signature: Hex64
    certificate: Annotated[str, Field(max_length=8192)]  # the auditor's identity certificate, PEM


class KeyEntry(Entry):
    """An identity key that this institution signs with, or pins: from then on it is the only one for that name."""

    kind: Literal["key"] = "key"
    action: Literal["own", "pinned"]
    party: Text  # the URI in its certificate
    fingerprint: Hex32  # SHA-256 of the raw Ed25519 key
    reason: Text


class KeyRotationEntry(Entry):
    """Checkpoints that cover this entry are by another key; both keys have signed that (privacy.key_rotation).

    The certificates are the institution's, PEM: of the old key as it was last, of the new one as it is first.
    """

    kind: Literal["key-rotation"] = "key-rotation"
    old_key: Hex32  # raw Ed25519
    new_key: Hex32
    old_certificate: Annotated[str, Field(max_length=8192)] | None
    new_certificate: Annotated[str, Field(max_length=8192)] | None
    old_signature: Hex64
    new_signature: Hex64
    reason: Text


class JobApprovalEntry(Entry):
    """A steward, or the policy file, lets a job use a population: for so many charged rounds, each of this charge.

    Neither population nor charge means a rehearsal, which touches no data.
    """

    kind: Literal["job-approval"] = "job-approval"
    job: Hex32
    automatic: bool
    purpose: Text
    population: Name | None
    rounds: Annotated[int, Field(gt=0, le=1_000_000)]  # the plan's, and those granted for rounds that fail
    charge: Charge | None  # of one round
    epsilon_after: NonNegative | None  # of the population if all of them run, and nothing else does
    legal_basis: Text | None
    dpia: Text | None
    reason: Text


class AutoPolicyEntry(Entry):
    """Which jobs the agent approves without asking anybody, from here on: [policy] of silo.toml."""

    kind: Literal["auto-policy"] = "auto-policy"
    rehearsals: bool
    auto_approve: bool
    dataset: Name | None
    max_epsilon_per_job: PositiveReal | None
    extra_rounds: Count
    purposes: tuple[Text, ...] = Field(strict=False, max_length=64)  # none: any
    shared_noise: bool


class SelfTestEntry(Entry):
    """A preflight of the model and the mechanism on made-up examples, before any budget was touched."""

    kind: Literal["self-test"] = "self-test"
    job: Hex32 | None
    passed: bool
    checks: tuple[Text, ...] = Field(strict=False, max_length=64)
    report_sha256: Hex32 | None  # of the report with what was measured; it stays at the institution
    model_sha256: Hex32 | None
    software: Text
    reason: Text | None


AnyEntry = Annotated[
    PolicyEntry
    | ReserveEntry
    | CommitEntry
    | RefundEntry
    | RefuseEntry
    | ReleaseEntry
    | RoundEntry
    | ReviewEntry
    | BudgetChangeEntry
    | SubCapEntry
    | AdminEntry
    | KeyEntry
    | KeyRotationEntry
    | JobApprovalEntry
    | AutoPolicyEntry
    | SelfTestEntry,
    Field(discriminator="kind"),
]
