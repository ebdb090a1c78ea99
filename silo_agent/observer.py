"""What happened at the aggregator that a round has to answer to: looked at, judged, put as an event for the machine."""

from collections.abc import Callable, Iterable

import structlog
from cloister import wire
from cloister.wire import RoundPhase

from privacy.errors import CloisterError
from privacy.keyed import keyed_headers
from privacy.plan import RoundContext
from privacy.record import header_check
from privacy.transcript import CheckedCommit, CheckedTranscript, HeaderCheck, check_joins
from silo_agent import evidence
from silo_agent.admission import check_pins
from silo_agent.ciphers import KeyedCipher
from silo_agent.jobs import require_job_record
from silo_agent.peers import trusted_peers
from silo_agent.round_events import (
    CertificateChecked,
    CollectingClosed,
    CollectingOpened,
    CommitChecked,
    CommitFingerprinted,
    Event,
    EvidenceRejected,
    ReleasesShown,
    RoundAborted,
    RoundAnnounced,
    UpdateAccepted,
)
from silo_agent.round_log import context_of
from silo_agent.round_states import (
    Certified,
    Consented,
    Fingerprinted,
    Idle,
    Joined,
    Released,
    Sealed,
    State,
    Submitted,
    Withdrawn,
)
from silo_agent.round_tools import RoundTools
from silo_agent.sums import Rejected, judged

LOG = structlog.get_logger("silo.round")


class Observer:
    """Looks at the rounds of one job. `records` has, by round, the record of what was certified, for silo.db."""

    def __init__(self, tools: RoundTools) -> None:
        self._tools = tools
        self.records: dict[int, bytes] = {}

    def observe(self, number: int, state: State, view: wire.Round, *, certified: bool) -> Event | None:
        """What happened at the aggregator that this state has to answer to; None if nothing."""
        certified = certified or view.phase in (RoundPhase.RELEASING, RoundPhase.PUBLISHED)
        aborted = view.phase is RoundPhase.ABORTED and not certified
        agreed = certified or view.phase is RoundPhase.SHARING
        over = agreed or view.phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED, RoundPhase.ABORTED)
        found: Event | None = None
        match state:
            case Idle():
                found = self._observe_idle(number, view, certified=certified)
            case Joined() | Sealed() | Submitted() | Fingerprinted() | Withdrawn() | Consented() if aborted:
                found = RoundAborted()
            case Certified(keyed=True) | Released() if aborted:
                found = RoundAborted()
            case Joined(ctx=ctx) if view.phase is RoundPhase.COLLECTING:
                self._check_joins(ctx, view)
                found = self._tools.work.prepare() or CollectingOpened()
            case Sealed() if self._tools.log.header(number) in view.headers:
                found = UpdateAccepted()  # only the reply was lost
            case Joined() | Sealed() if over:
                found = CollectingClosed()
            case Submitted() | Fingerprinted() | Withdrawn() | Consented() if agreed:
                found = self._certificate(number, state, context_of(state), view)
            case Released() if certified:
                found = ReleasesShown()
            case Submitted() | Fingerprinted() if view.phase is RoundPhase.FINGERPRINTING:
                found = self._fingerprint(number, state, view)
            case Submitted() | Fingerprinted() | Withdrawn() if view.phase is RoundPhase.COMMITTED:
                found = self._commit(number, state, view)
        return found

    def _observe_idle(self, number: int, view: wire.Round, *, certified: bool) -> Event | None:
        participant = self._tools.member.silo in view.participants
        if not certified and not (view.phase is RoundPhase.ANNOUNCED and participant):
            return None
        with self._tools.home.store.reading() as connection:
            own = require_job_record(connection, self._tools.member.job).adapter_digest
            pins = trusted_peers(connection)
        if not certified:  # else it is over, and this silo gives nothing: who signed it, the approved plan says
            check_pins(self._tools.member.plan, self._tools.member.silo, pins)
        ctx = evidence.check_announcement(self._tools.member, number, view, own)
        if certified:
            return self._certificate(number, Idle(), ctx, view)
        return RoundAnnounced(ctx)

    def _fingerprint(self, number: int, state: Submitted | Fingerprinted, view: wire.Round) -> Event | None:
        """What to answer to a commit; None if it was answered, or leaves this silo out."""
        try:
            checked = self._check(number, state, state.ctx, view).commit(view)
            answered = isinstance(state, Fingerprinted) and state.commit == checked.digest
            if answered or self._tools.member.silo not in checked.members:
                return None
            unopened = self._gather(state.ctx, view, checked)
        except Rejected as error:
            return reject(self._tools, number, error)
        (own,) = (header for header in checked.headers if header.silo == self._tools.member.silo)
        value = self._tools.work.fingerprint(number, checked.digest, own.residues_root)
        return CommitFingerprinted(checked.digest, checked.commit.attempt, value, unopened)

    def _commit(self, number: int, state: State, view: wire.Round) -> Event | None:
        """Step 5. None where this silo cannot help to open the sum: the others go on without its consent."""
        try:
            checked = self._checked(number, state, context_of(state), view)
            if not self._hold(context_of(state), view, checked):
                return None
        except Rejected as error:
            return reject(self._tools, number, error)
        return CommitChecked(checked.digest)

    def _gather(self, ctx: RoundContext, view: wire.Round, checked: CheckedCommit) -> tuple[str, ...]:
        """Steps 3 and 5 with one-time keys: this silo's shares; of which members it has none."""
        if self._tools.keyed is None:
            return ()
        with judged():
            roll = self._tools.keyed.roll(ctx, view.joins)
        job = self._tools.member.job
        return self._tools.keyed.gather(ctx, roll, checked, lambda: self._tools.port.fetch_mails(job, ctx.round_number))

    def _hold(self, ctx: RoundContext, view: wire.Round, checked: CheckedTranscript) -> bool:
        """Step 5 with one-time keys: the sum of this silo's shares is stored. False if it has not all of them."""
        if self._tools.keyed is None:
            return True
        unopened = self._gather(ctx, view, checked.commit)
        if unopened:
            self._tools.board.show(message=f"round {ctx.round_number}: no share of use from {', '.join(unopened)}")
            return False
        self._tools.keyed.hold(ctx.round_number, checked.digest, checked.commit.members)
        return True

    def _certificate(self, number: int, state: State, ctx: RoundContext, view: wire.Round) -> Event:
        try:
            checked = self._checked(number, state, ctx, view)
            if self._tools.member.silo in ctx.participants and not isinstance(state, Consented):
                self._hold_late(ctx, view, checked)
            self.records[number] = evidence.check_certified(self._tools.member, ctx, view, checked)
        except Rejected as error:
            return reject(self._tools, number, error)
        return CertificateChecked(ctx, checked.digest, keyed=self._tools.keyed is not None)

    def _hold_late(self, ctx: RoundContext, view: wire.Round, checked: CheckedTranscript) -> None:
        """A participant that did not consent in time may release all the same, if its mails are still there."""
        try:
            self._hold(ctx, view, checked)
        except Rejected:
            raise
        except CloisterError as error:
            LOG.info("no shares to release", round=ctx.round_number, why=str(error))

    def _check_joins(self, ctx: RoundContext, view: wire.Round) -> None:
        """Step 0, its end."""
        if isinstance(self._tools.work.cipher, KeyedCipher):
            self._tools.work.cipher.expect(ctx.round_number, self._tools.work.cipher.rounds.roll(ctx, view.joins))
        else:
            check_joins(self._tools.member.plan, ctx, view.joins)

    def _headers(self, ctx: RoundContext, view: wire.Round) -> HeaderCheck:
        member = self._tools.member
        with judged():
            if self._tools.keyed is not None:
                return keyed_headers(member.plan, ctx, self._tools.keyed.roll(ctx, view.joins))
            return header_check(member.plan, ctx, member.roll, view.joins, member.deal)

    def _check(self, number: int, state: State, ctx: RoundContext, view: wire.Round) -> evidence.CommitCheck:
        own = self._tools.log.header(number)
        return evidence.CommitCheck(self._tools.member, ctx, self._headers(ctx, view), own, state)

    def _checked(self, number: int, state: State, ctx: RoundContext, view: wire.Round) -> CheckedTranscript:
        fetched = self._tools.work.fetched(number)
        return self._check(number, state, ctx, view).check(view, fetched, fetch_sum(self._tools, number))


def reject(tools: RoundTools, number: int, error: Rejected) -> EvidenceRejected:
    """Drop what was fetched and say so: this silo has no part in the round any more."""
    LOG.warning("evidence rejected", round=number, exc_info=error)
    tools.work.fetched(number).erase()
    tools.board.show(message=f"round {number} refused: {error}")
    return EvidenceRejected(f"{error.what}: {error.why}")


def fetch_sum(tools: RoundTools, number: int) -> Callable[[], Iterable[wire.SumPart]]:
    """How the round's sum is brought."""
    return lambda: tools.port.fetch_sum(tools.member.job, number)
