"""The ledger entries a silo makes of what happens: facts in, frozen entries out. Nothing here stores anything."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import ValidationError

from certs.times import utc_text
from privacy.accounting import round_event
from privacy.budget import BudgetPolicy, BudgetState, RefusalCode, what_if
from privacy.errors import ConfigError
from privacy.fields import first_complaint
from privacy.ledger.entry import (
    CommitEntry,
    JobApprovalEntry,
    KeyEntry,
    PolicyEntry,
    RefundEntry,
    RefuseEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundEntry,
    SelfTestEntry,
)
from privacy.ledger.parts import Asked, Balance, Charge, NotBudget, mechanism_of
from privacy.mechanism import DpSgd
from privacy.plan import JobPlan, RoundContext
from privacy.tasks import ModelTask
from silo_agent.source import SelfTest

SAMPLER = "Poisson, one draw per unit and step"
PRECISION = "float32 gradients, clipped sum and noise in float64"
RNG = "ChaCha20 keyed by the operating system, one key per purpose"
Decision = Literal["preflight", "protocol", "steward"]


def software() -> str:
    """This program and its version, as entries and the wire say it."""
    return f"cloister {version('cloister')}"


@dataclass(frozen=True)
class Author:
    """Who makes an entry, and when."""

    institution: str
    actor: str
    role: Literal["agent", "steward"]
    now: datetime

    def fields(self) -> dict[str, Any]:
        """What every entry says."""
        now = utc_text(self.now)
        return {"institution": self.institution, "actor": self.actor, "role": self.role, "utc": now}


@dataclass(frozen=True)
class Charged:
    """One round of a job on data, as its entries name it."""

    plan: JobPlan
    dp: DpSgd
    population: str
    dataset: str

    def charge(self, budget: BudgetPolicy, steps_executed: int | None = None) -> Charge:
        """What the round costs at the population's delta: its planned steps, or those that ran."""
        steps = self.dp.steps_per_round if steps_executed is None else steps_executed
        return Charge.of(round_event(self.dp, steps), budget.delta)


@dataclass(frozen=True)
class References:
    """What a steward says a budget or an approval rests on; nothing unless said."""

    legal_basis: str | None = None
    dpia: str | None = None


NOTHING_SAID = References()


@contextmanager
def as_typed(what: str) -> Iterator[None]:
    """What a person typed, and no entry or statement can hold, is theirs to correct: raises ConfigError."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError(what, first_complaint(error), "Correct it and try again; nothing was changed.") from error


def policy_entry(by: Author, policy: BudgetPolicy, reason: str, references: References = NOTHING_SAID) -> PolicyEntry:
    """The first budget of a population. Raises ConfigError for a text that cannot go on record."""
    with as_typed(f"budget of {policy.population}"):
        return PolicyEntry(
            **by.fields(),
            population=policy.population,
            unit=policy.unit,
            contribution_bound=1,
            epsilon=policy.epsilon,
            delta=policy.delta,
            legal_basis=references.legal_basis,
            dpia=references.dpia,
            reason=reason,
        )


def approval_entry(
    by: Author,
    plan: JobPlan,
    rounds: int,
    of: tuple[Charged, BudgetState] | None,
    references: References = NOTHING_SAID,
) -> JobApprovalEntry:
    """A steward, or the policy file, lets a job have so many charged rounds of a budget as it then is.

    `of` None is a rehearsal, which charges none.
    """
    charge = of[0].charge(of[1].policy) if of is not None else None
    epsilon = what_if(of[1], charge.rdp, rounds).epsilon_after if of is not None and charge is not None else None
    return JobApprovalEntry(
        **by.fields(),
        job=plan.digest().hex(),
        automatic=by.role == "agent",
        purpose=plan.purpose,
        population=of[0].population if of is not None else None,
        rounds=rounds,
        charge=charge,
        epsilon_after=epsilon,
        legal_basis=references.legal_basis,
        dpia=references.dpia,
        reason="within the policy file's limits" if by.role == "agent" else "approved by a steward",
    )


def key_entry(by: Author, action: Literal["own", "pinned"], party: str, fingerprint: str, reason: str) -> KeyEntry:
    """An identity key this silo signs with, or pins for a party (its URI); `fingerprint` as certs.identity words it."""
    bare = fingerprint.replace(" ", "")
    return KeyEntry(**by.fields(), action=action, party=party, fingerprint=bare, reason=reason)


def self_test_entry(by: Author, plan: JobPlan, found: SelfTest) -> SelfTestEntry:
    """The preflight of a job's model at this silo, which it passed; a failure is a refusal."""
    return SelfTestEntry(
        **by.fields(),
        job=plan.digest().hex(),
        passed=True,
        checks=found.checks,
        report_sha256=hashlib.sha256(found.report).hexdigest(),
        model_sha256=_model(plan),
        software=software(),
        reason=None,
    )


def reserve_entry(by: Author, round_: Charged, ctx: RoundContext, after: BudgetState) -> ReserveEntry:
    """Budget set aside, before the first gradient."""
    return ReserveEntry(
        **by.fields(),
        job=ctx.plan_digest.hex(),
        round=ctx.round_number,
        purpose=round_.plan.purpose,
        population=round_.population,
        dataset=round_.dataset,
        unit=round_.dp.unit,
        contribution_bound=1,
        mechanism=mechanism_of(round_.dp),
        charge=round_.charge(after.policy),
        balance=Balance.of(after),
        model_sha256=_model(round_.plan) or "",
        adapter_sha256=ctx.adapter_digest.hex(),
        software=software(),
    )


@dataclass(frozen=True)
class Sealed:
    """What ran and what came of it: the engine's own count of steps, and the digest of the update's signed header."""

    steps_executed: int
    header: bytes


def commit_entry(
    by: Author, round_: Charged, ctx: RoundContext, after: BudgetState, sealed: Sealed | None
) -> CommitEntry:
    """Budget spent: on a sealed update, or, without one, presumed spent in full."""
    return CommitEntry(
        **by.fields(),
        job=ctx.plan_digest.hex(),
        round=ctx.round_number,
        population=round_.population,
        outcome="executed" if sealed else "presumed",
        mechanism=mechanism_of(round_.dp),
        steps_executed=sealed.steps_executed if sealed else None,
        sampler=SAMPLER if sealed else None,
        precision=PRECISION if sealed else None,
        rng=RNG if sealed else None,
        charge=round_.charge(after.policy, sealed.steps_executed if sealed else None),
        balance=Balance.of(after),
        ciphertext_sha256=sealed.header.hex() if sealed else None,
        software=software(),
    )


def refund_entry(by: Author, round_: Charged, ctx: RoundContext, after: BudgetState) -> RefundEntry:
    """A reservation given back: nothing was trained on it."""
    return RefundEntry(
        **by.fields(),
        job=ctx.plan_digest.hex(),
        round=ctx.round_number,
        population=round_.population,
        reason="nothing-trained",
        balance=Balance.of(after),
    )


def refuse_entry(
    by: Author, plan: JobPlan, decision: Decision, reason: NotBudget, round_number: int | None = None
) -> RefuseEntry:
    """A decision not to take part, for another reason than the budget."""
    return RefuseEntry(
        **by.fields(),
        job=plan.digest().hex(),
        round=round_number,
        decision=decision,
        population=None,
        asked=None,
        balance=None,
        reason=reason,
    )


def budget_refusal_entry(
    by: Author, round_: Charged, budget: BudgetState, rounds: int, reason: RefusalCode, round_number: int | None = None
) -> RefuseEntry:
    """The budget says no, to a whole job or to one round: what was asked for stands beside what there is.

    `budget` is the state that said so, read in the transaction that the entry is written in.
    """
    return RefuseEntry(
        **by.fields(),
        job=round_.plan.digest().hex(),
        round=round_number,
        decision="budget",
        population=round_.population,
        asked=Asked(purpose=round_.plan.purpose, rounds=rounds, charge=round_.charge(budget.policy)),
        balance=Balance.of(budget),
        reason=reason,
    )


def release_entry(by: Author, ctx: RoundContext, population: str | None, header: bytes, to: str) -> ReleaseEntry:
    """The sealed update with this header digest is handed to the network."""
    return ReleaseEntry(
        **by.fields(),
        job=ctx.plan_digest.hex(),
        round=ctx.round_number,
        population=population,
        ciphertext_sha256=header.hex(),
        recipient=to,
    )


def published_entry(
    by: Author, ctx: RoundContext, members: tuple[str, ...], transcript: bytes, sum_root: str, after: bytes
) -> RoundEntry:
    """The round gave the next global adapter."""
    return RoundEntry(
        **by.fields(),
        job=ctx.plan_digest.hex(),
        round=ctx.round_number,
        outcome="published",
        members=members,
        transcript_sha256=transcript.hex(),
        sum_sha256=sum_root,
        adapter_before_sha256=ctx.adapter_digest.hex(),
        adapter_after_sha256=after.hex(),
        reason=None,
    )


def aborted_entry(by: Author, ctx: RoundContext, reason: str) -> RoundEntry:
    """The round's number is burnt."""
    return RoundEntry(
        **by.fields(),
        job=ctx.plan_digest.hex(),
        round=ctx.round_number,
        outcome="aborted",
        members=(),
        transcript_sha256=None,
        sum_sha256=None,
        adapter_before_sha256=ctx.adapter_digest.hex(),
        adapter_after_sha256=None,
        reason=reason[:400],
    )


def _model(plan: JobPlan) -> str | None:
    return plan.task.model.weights_sha256 if isinstance(plan.task, ModelTask) else None
