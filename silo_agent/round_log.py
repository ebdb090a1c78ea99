"""What a transition of a round changes on disk: state, statements, budget and ledger, in one transaction."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from privacy.accounting import rdp_vector, round_event
from privacy.budget import BudgetRefusal, RoundKey, commit, refund, reserve
from privacy.envelope import header_digest, header_kind
from privacy.errors import InternalError
from privacy.job_budget import check_terms
from privacy.keyed import KeyedRoundJoin, Release
from privacy.plan import RoundContext
from privacy.record import RoundRecord, header_check
from privacy.statement import RoundStatement, Signed, Statement
from privacy.transcript import Applied as AppliedStatement
from privacy.transcript import (
    CheckedTranscript,
    Fingerprint,
    RoundJoin,
    Withdrawal,
    check_commit,
    check_fingerprints,
    fingerprint_under,
)
from privacy.transcript import Consent as ConsentStatement
from silo_agent import entries
from silo_agent.accounts import change_budget, require_budget
from silo_agent.home import Home
from silo_agent.jobs import set_adapter
from silo_agent.keyed_rounds import KeyedRounds
from silo_agent.membership import Membership
from silo_agent.round_events import (
    Action,
    CommitBudget,
    CommitFingerprinted,
    Event,
    RefundBudget,
    ReleaseSealed,
    ReserveBudget,
    SendApplied,
    SendConsent,
    SendFingerprint,
    SendJoin,
    SendRelease,
    SendUpdate,
    SendWithdrawal,
    UpdateSealed,
)
from silo_agent.round_states import Burnt, Certified, Consented, Idle, Opened, Released, State, Unlocked
from silo_agent.round_states import Refused as RefusedRound
from silo_agent.statements import put_record, put_round_state, round_records, said, say, undelivered
from silo_agent.store import Transaction

STATEMENTS: dict[type[Action], type[RoundStatement]] = {
    SendWithdrawal: Withdrawal,
    SendFingerprint: Fingerprint,
    SendConsent: ConsentStatement,
    SendRelease: Release,
    SendApplied: AppliedStatement,
}


@dataclass(frozen=True)
class Denied:
    """The budget does not allow the round. That is on record; nothing else was stored."""

    why: str


class RoundLog:
    """Writes transitions of one job's rounds."""

    def __init__(
        self, home: Home, membership: Membership, clock: Callable[[], datetime], keyed: KeyedRounds | None
    ) -> None:
        self._home = home
        self._member = membership
        self._clock = clock
        self._keyed = keyed
        suite = membership.plan.suite
        self._kinds = {
            **STATEMENTS,
            SendJoin: KeyedRoundJoin if suite.keyed else RoundJoin,
            SendUpdate: header_kind(suite),
        }

    def sent_by(self, action: Action) -> str | None:
        """Under which name (`Statement.once`) what an action sends is stored; None for one that sends no statement."""
        statement = self._kinds.get(type(action))
        if statement is None:
            return None
        return fingerprint_under(action.commit) if isinstance(action, SendFingerprint) else statement.label()

    def header(self, number: int) -> Signed | None:
        """The header of the update that this silo sealed, if it did."""
        return self.said(number, self._kinds[SendUpdate].label())

    def write(
        self, number: int, before: State, event: Event, state: State, actions: Iterable[Action], record: bytes | None
    ) -> str | Denied | None:
        """Store one transition; returns the ledger's new checkpoint where a round came to an end.

        Returns Denied when the budget does not allow a reservation: decided, and put on record, in one transaction.
        """
        ended = isinstance(state, Opened | RefusedRound | Burnt)
        with self._home.store.writing() as tx:
            if any(isinstance(action, ReserveBudget) for action in actions) and self._charges:
                refusal = self._reserve(tx, state)
                if refusal is not None:
                    return Denied(f"{refusal.what}: {refusal.why}")
            put_round_state(tx.connection, self._member.job, number, before, state)
            if isinstance(state, Certified) and record is not None:
                put_record(tx.connection, self._member.job, number, record)
            for action in actions:
                self._apply(tx, number, event, state, action)
            self._note_end(tx, number, before, state)
            return tx.ledger.checkpoint(self._home.identity.sign, self._clock()) if ended else None

    def said(self, number: int, name: str) -> Signed | None:
        """What this silo signed under this name (`Statement.once`), if it did."""
        with self._home.store.reading() as connection:
            return said(connection, self._member.job, number, name)

    def undelivered(self, number: int, action: Action) -> bool:
        """Whether `action` is still to be done: what it sends was not confirmed, or its end moves the round on."""
        name = self.sent_by(action)
        if name is None or isinstance(action, SendUpdate | SendApplied):
            return True
        with self._home.store.reading() as connection:
            return undelivered(connection, self._member.job, number, name) is not None

    def certified(self, number: int, ctx: RoundContext) -> CheckedTranscript:
        """The certified transcript as it was stored, checked again. Raises InternalError when there is none."""
        record, member = self._record(number), self._member
        joins = [join.signed for join in record.round_joins]
        check = header_check(member.plan, ctx, member.roll, joins, member.deal)
        headers = [header.signed for header in record.headers]
        commit = check_commit(member.plan, ctx, check, record.commit.signed, headers)
        return check_fingerprints(member.plan, ctx, commit, [each.signed for each in record.fingerprints])

    def joins(self, number: int) -> tuple[Signed, ...]:
        """The joins of a certified round, as they were stored. Raises InternalError as `certified` does."""
        return tuple(join.signed for join in self._record(number).round_joins)

    def _record(self, number: int) -> RoundRecord:
        with self._home.store.reading() as connection:
            stored = round_records(connection, self._member.job).get(number)
        if stored is None:
            raise InternalError(f"round {number}", "is certified, and its record is missing", "Restore silo.db.")
        return RoundRecord.decode(stored)

    def _apply(self, tx: Transaction, number: int, event: Event, state: State, action: Action) -> None:
        match action:
            case CommitBudget() if self._charges:
                self._commit(tx, event, state, action)
            case RefundBudget() if self._charges:
                self._refund(tx, state)
            case SendUpdate() if not isinstance(event, UpdateSealed):
                return  # a resend: header and bytes are stored
            case SendFingerprint() if not isinstance(event, CommitFingerprinted):
                return  # likewise
            case SendRelease() if not isinstance(event, ReleaseSealed):
                return  # likewise
            case action if type(action) in self._kinds:
                statement = self._statement(event, state, action)
                if statement is not None:
                    signed = say(tx.connection, number, statement, self._home.identity.sign)
                    self._note_release(tx, state, action, signed)

    def _statement(self, event: Event, state: State, action: Action) -> Statement | None:
        """The statement to sign for an action; None where this silo is no participant and has nothing to say."""
        ctx = context_of(state)
        if self._member.silo not in ctx.participants:
            return None
        bound = {
            "plan": ctx.plan_digest.hex(),
            "silo": self._member.silo,
            "round": ctx.round_number,
            "ctx": ctx.digest().hex(),
        }
        more: dict[str, object]
        match action, event, state:
            case SendJoin(), _, _ if self._keyed is not None:
                more = {**self._keyed.public_keys(ctx.round_number)}
            case SendUpdate(), UpdateSealed(parts=parts), _:
                more = {"values": self._member.plan.sent_values, **parts}
            case SendFingerprint(), CommitFingerprinted(commit=commit, value=value, unopened=unopened), _:
                more = {"commit": commit.hex(), "value": value, "unopened": unopened}
            case SendRelease(), ReleaseSealed(parts=parts), Released(transcript=transcript):
                more = {"transcript": transcript.hex(), **parts}
            case SendConsent(), _, Consented(transcript=transcript):
                more = {"transcript": transcript.hex()}
            case SendApplied(), _, Opened(adapter_digest=adapter, validation=sums):
                more = {"adapter": adapter.hex(), "validation": list(sums)}
            case _:
                more = {}
        return self._kinds[type(action)].model_validate({**bound, **more})

    def _reserve(self, tx: Transaction, state: State) -> BudgetRefusal | None:
        charged, ctx = self._charged(), context_of(state)
        key = RoundKey(ctx.plan_digest.hex(), ctx.round_number)
        before = require_budget(tx.connection, charged.population)
        try:
            check_terms(before.policy, charged.dp)
            after = reserve(before, key, charged.charge(before.policy).rdp)
        except BudgetRefusal as refusal:
            author, number = self._author(), ctx.round_number
            tx.record(entries.budget_refusal_entry(author, charged, before, 1, refusal.code, number))
            return refusal
        change_budget(tx.connection, charged.population, lambda _: after)
        tx.record(entries.reserve_entry(self._author(), charged, ctx, after))
        return None

    def _commit(self, tx: Transaction, event: Event, state: State, action: CommitBudget) -> None:
        """What the engine counted is charged for a sealed update, and the whole reservation for anything else."""
        charged, ctx = self._charged(), context_of(state)
        key = RoundKey(ctx.plan_digest.hex(), ctx.round_number)
        sealed, executed = None, require_budget(tx.connection, charged.population).reserved[key]
        if action.steps_executed is not None:
            header = self._statement(event, state, SendUpdate())
            if header is None:
                raise InternalError(f"round {ctx.round_number}", "was sealed by no participant", "Report this.")
            sealed = entries.Sealed(action.steps_executed, header_digest(Signed(header.body(), b"")))
            executed = rdp_vector(round_event(charged.dp, sealed.steps_executed))
        after = change_budget(tx.connection, charged.population, lambda budget: commit(budget, key, executed))
        tx.record(entries.commit_entry(self._author(), charged, ctx, after, sealed))

    def _refund(self, tx: Transaction, state: State) -> None:
        charged, ctx = self._charged(), context_of(state)
        key = RoundKey(ctx.plan_digest.hex(), ctx.round_number)
        after = change_budget(tx.connection, charged.population, lambda budget: refund(budget, key))
        tx.record(entries.refund_entry(self._author(), charged, ctx, after))

    def _note_release(self, tx: Transaction, state: State, action: Action, signed: Signed) -> None:
        if isinstance(action, SendUpdate):
            population = self._member.charged.population if self._member.charged else None
            to = self._member.plan.aggregator.name
            tx.record(entries.release_entry(self._author(), context_of(state), population, header_digest(signed), to))

    def _note_end(self, tx: Transaction, number: int, before: State, state: State) -> None:
        match state:
            case Opened(ctx=ctx, adapter_digest=adapter) if isinstance(before, Certified | Unlocked):
                commit = self.certified(number, ctx).commit
                set_adapter(tx.connection, self._member.job, number, adapter)
                tx.record(
                    entries.published_entry(
                        self._author(), ctx, commit.members, before.transcript, commit.commit.sum_root, adapter
                    )
                )
            case RefusedRound():
                plan = self._member.plan
                tx.record(entries.refuse_entry(self._author(), plan, "protocol", "bad-evidence", number))
            case Burnt():
                tx.record(entries.aborted_entry(self._author(), context_of(before), "the aggregator gave it up"))

    @property
    def _charges(self) -> bool:
        return self._member.plan.dp is not None

    def _charged(self) -> entries.Charged:
        if self._member.charged is None:
            raise InternalError("budget", "a job on data has none to charge", "Report this; nothing ran.")
        return self._member.charged

    def _author(self) -> entries.Author:
        return entries.Author(self._member.silo, f"agent of {self._member.silo}", "agent", self._clock())


def context_of(state: State) -> RoundContext:
    """The context a state is bound to. Raises InternalError for a state that has none."""
    if isinstance(state, Idle | RefusedRound | Burnt):
        raise InternalError("round", f"{type(state).__name__} has no context", "Report this.")
    return state.ctx
