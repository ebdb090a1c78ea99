"""One job's rounds at this silo: see where the aggregator is, let the machine decide, record durably, act.

Level-triggered: `advance` may be called at any moment, as often as one likes, also after a kill -9. What is sent was
stored first; a round that was left in the middle of training is spent and withdrawn. Steps are those of protocol.md.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import numpy.typing as npt
import structlog
from cloister import wire
from cloister.wire import RoundPhase

from privacy.errors import CloisterError, InternalError, ProtocolError, Unavailable, VerificationError
from privacy.keyed import Release, keyed_headers
from privacy.plan import RoundContext
from privacy.record import header_check
from privacy.statement import Signed, read
from privacy.transcript import CheckedCommit, CheckedTranscript, HeaderCheck, check_joins
from silo_agent import evidence
from silo_agent.admission import check_pins
from silo_agent.ciphers import KeyedCipher
from silo_agent.client import AggregatorPort, UpdateParts
from silo_agent.home import Home
from silo_agent.jobs import require_job_record
from silo_agent.membership import Membership
from silo_agent.peers import trusted_peers
from silo_agent.round import step
from silo_agent.round_events import (
    Action,
    CertificateChecked,
    CollectingClosed,
    CollectingOpened,
    CommitChecked,
    CommitFingerprinted,
    EraseUpdate,
    Event,
    EvidenceRejected,
    FingerprintAccepted,
    NothingToRelease,
    OpenSum,
    ReleaseSealed,
    ReleasesShown,
    ReportAccepted,
    ReservationDenied,
    Restarted,
    RoundAborted,
    RoundAnnounced,
    Seal,
    SealRelease,
    SendApplied,
    SendConsent,
    SendFingerprint,
    SendJoin,
    SendRelease,
    SendUpdate,
    SendWithdrawal,
    Train,
    UpdateAccepted,
    UpdateRejected,
)
from silo_agent.round_log import Denied, RoundLog, context_of
from silo_agent.round_states import (
    ENDS,
    Applied,
    Certified,
    Consented,
    Fingerprinted,
    Idle,
    Joined,
    Released,
    Reserved,
    Sealed,
    State,
    Submitted,
    Trained,
    Withdrawn,
)
from silo_agent.round_work import Opener, RoundWork
from silo_agent.source import UpdateSource
from silo_agent.statements import journalled_rounds, mark_delivered, round_state
from silo_agent.status import JobBoard, Timing
from silo_agent.sums import FetchedSum, Rejected, judged

LOG = structlog.get_logger("silo.round")
Durably = Callable[[str], None]


def nothing_more(_point: str) -> None:
    """What happens after a durable write outside of tests: nothing."""


class RoundRunner:
    """Runs the rounds of one job. `interrupted(round)` says why training should stop, or None.

    `durably` is called with a name after every durable write and every action; tests stop the process there.
    """

    def __init__(
        self,
        home: Home,
        port: AggregatorPort,
        membership: Membership,
        source: UpdateSource,
        board: JobBoard,
        *,
        clock: Callable[[], datetime],
        interrupted: Callable[[int], str | None],
        durably: Durably = nothing_more,
    ) -> None:
        self._home = home
        self._port = port
        self._member = membership
        self._board = board
        self._clock = clock
        self._durably = durably
        self._work = RoundWork(home, membership, source, board, interrupted)
        self._cipher = self._work.cipher
        self._keyed = self._cipher.rounds if isinstance(self._cipher, KeyedCipher) else None
        self._log = RoundLog(home, membership, clock, self._keyed)
        self._port_for: dict[type[Action], Callable[[Signed], None]] = {
            SendJoin: port.join_round,
            SendWithdrawal: port.withdraw_round,
            SendFingerprint: port.send_fingerprint,
            SendConsent: port.consent_round,
            SendRelease: self._send_release,
            SendApplied: port.report_applied,
        }
        self._timings: dict[int, tuple[float, Timing]] = {}
        self._records: dict[int, bytes] = {}
        self.published_through: str | None = None

    def advance(self, job: wire.Job) -> None:
        """Take every round as far as it goes now, oldest first. Raises Unavailable while the aggregator is away.

        What stands in one round's way keeps no other from going on; the first of such errors is raised at the end.
        """
        self.settle()
        journal = self._journal()
        unfinished = {number for number, state in journal.items() if not isinstance(state, ENDS)}
        missed = {number for number in job.opened_rounds if number not in journal}
        current = {job.current_round} - journal.keys() - {0}
        trouble: CloisterError | None = None
        for number in sorted(unfinished | missed | current):
            try:
                self._drive(number, certified=number in job.opened_rounds)
            except Unavailable:
                raise
            except CloisterError as error:
                LOG.warning("round in trouble", round=number, exc_info=error)
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    def settle(self) -> None:
        """What was reserved and not sealed is spent: no living process leaves it so. Asks and sends nothing."""
        for number, state in self._journal().items():
            if isinstance(state, Reserved | Trained):
                event = Restarted()
                following, actions = step(state, event, self._clock())
                self._log.write(number, state, event, following, actions, None)
                self._work.erase(number)
                self._after_write(number, following, None)

    def _journal(self) -> dict[int, State]:
        with self._home.store.reading() as connection:
            return journalled_rounds(connection, self._member.job)

    def state(self, number: int) -> State:
        """Where this silo stands in a round."""
        with self._home.store.reading() as connection:
            return round_state(connection, self._member.job, number)

    def _drive(self, number: int, *, certified: bool) -> None:
        while True:
            state = self.state(number)
            if isinstance(state, ENDS):
                return
            view = self._port.get_round(self._member.job, number)
            event = self._observe(number, state, view, certified=certified)
            if event is not None:
                self._happen(number, state, event)
            elif not self._resend(number, state):
                return

    def _observe(self, number: int, state: State, view: wire.Round, *, certified: bool) -> Event | None:
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
                found = self._work.prepare() or CollectingOpened()
            case Sealed() if self._log.header(number) in view.headers:
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
        participant = self._member.silo in view.participants
        if not certified and not (view.phase is RoundPhase.ANNOUNCED and participant):
            return None
        with self._home.store.reading() as connection:
            own = require_job_record(connection, self._member.job).adapter_digest
            pins = trusted_peers(connection)
        check_pins(self._member.plan, self._member.silo, pins)
        ctx = evidence.check_announcement(self._member, number, view, own)
        if certified:
            return self._certificate(number, Idle(), ctx, view)
        self._timings[number] = (time.monotonic(), Timing(self._member.job.hex(), number, self._member.plan.values))
        return RoundAnnounced(ctx)

    def _fingerprint(self, number: int, state: Submitted | Fingerprinted, view: wire.Round) -> Event | None:
        """What to answer to a commit; None if it was answered, or leaves this silo out."""
        try:
            checked = self._check(number, state, state.ctx, view).commit(view)
            answered = isinstance(state, Fingerprinted) and state.commit == checked.digest
            if answered or self._member.silo not in checked.members:
                return None
            unopened = self._gather(state.ctx, view, checked)
        except Rejected as error:
            return self._rejected(number, error)
        (own,) = (header for header in checked.headers if header.silo == self._member.silo)
        value = self._work.fingerprint(number, checked.digest, own.residues_root)
        return CommitFingerprinted(checked.digest, checked.commit.attempt, value, unopened)

    def _commit(self, number: int, state: State, view: wire.Round) -> Event | None:
        """Step 5. None where this silo cannot help to open the sum: the others go on without its consent."""
        try:
            checked = self._checked(number, state, context_of(state), view)
            if not self._hold(context_of(state), view, checked):
                return None
        except Rejected as error:
            return self._rejected(number, error)
        return CommitChecked(checked.digest)

    def _gather(self, ctx: RoundContext, view: wire.Round, checked: CheckedCommit) -> tuple[str, ...]:
        """Steps 3 and 5 with one-time keys: this silo's shares; of which members it has none."""
        if self._keyed is None:
            return ()
        with judged():
            roll = self._keyed.roll(ctx, view.joins)
        job = self._member.job
        return self._keyed.gather(ctx, roll, checked, lambda: self._port.fetch_mails(job, ctx.round_number))

    def _hold(self, ctx: RoundContext, view: wire.Round, checked: CheckedTranscript) -> bool:
        """Step 5 with one-time keys: the sum of this silo's shares is stored. False if it has not all of them."""
        if self._keyed is None:
            return True
        unopened = self._gather(ctx, view, checked.commit)
        if unopened:
            self._board.show(message=f"round {ctx.round_number}: no share of use from {', '.join(unopened)}")
            return False
        self._keyed.hold(ctx.round_number, checked.digest, checked.commit.members)
        return True

    def _certificate(self, number: int, state: State, ctx: RoundContext, view: wire.Round) -> Event:
        try:
            checked = self._checked(number, state, ctx, view)
            if self._keyed is not None and self._member.silo in ctx.participants and not isinstance(state, Consented):
                self._hold_late(ctx, view, checked)
            self._records[number] = evidence.check_certified(self._member, ctx, view, checked)
        except Rejected as error:
            return self._rejected(number, error)
        return CertificateChecked(ctx, checked.digest, keyed=self._keyed is not None)

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
        if isinstance(self._cipher, KeyedCipher):
            self._cipher.expect(ctx.round_number, self._cipher.rounds.roll(ctx, view.joins))
        else:
            check_joins(self._member.plan, ctx, view.joins)

    def _headers(self, ctx: RoundContext, view: wire.Round) -> HeaderCheck:
        member = self._member
        with judged():
            if self._keyed is not None:
                return keyed_headers(member.plan, ctx, self._keyed.roll(ctx, view.joins))
            return header_check(member.plan, ctx, member.roll, view.joins, member.deal)

    def _check(self, number: int, state: State, ctx: RoundContext, view: wire.Round) -> evidence.CommitCheck:
        return evidence.CommitCheck(self._member, ctx, self._headers(ctx, view), self._log.header(number), state)

    def _checked(self, number: int, state: State, ctx: RoundContext, view: wire.Round) -> CheckedTranscript:
        return self._check(number, state, ctx, view).check(view, self._work.fetched(number), self._fetch(number))

    def _fetch(self, number: int) -> Callable[[], Iterable[wire.SumPart]]:
        return lambda: self._port.fetch_sum(self._member.job, number)

    def _rejected(self, number: int, error: Rejected) -> EvidenceRejected:
        LOG.warning("evidence rejected", round=number, exc_info=error)
        self._work.fetched(number).erase()
        self._board.show(message=f"round {number} refused: {error}")
        return EvidenceRejected(f"{error.what}: {error.why}")

    def _happen(self, number: int, state: State, first: Event) -> None:
        """One event and what follows from it at once."""
        event: Event | None = first
        while event is not None:
            following, actions = step(state, event, self._clock())
            written = self._log.write(number, state, event, following, actions, self._records.get(number))
            if isinstance(written, Denied):
                LOG.warning("round refused", round=number, why=written.why)
                event = ReservationDenied(written.why)
                continue
            state = following
            self._after_write(number, state, written)
            event = self._perform(number, state, actions)

    def _after_write(self, number: int, state: State, checkpoint: str | None) -> None:
        name = type(state).__name__
        LOG.info("round", round=number, state=name)
        self._durably(name)
        self._board.show(phase=name, round=number)
        if isinstance(state, Released) and self._keyed is not None:
            self._keyed.forget_shares(number)
        if checkpoint is not None:
            self.published_through = checkpoint

    def _resend(self, number: int, state: State) -> bool:
        """Do again what is not known to have been done; whether the round moved on by it."""
        if isinstance(state, Idle):
            return False
        _, actions = step(state, Restarted(), self._clock())
        waiting = tuple(action for action in actions if self._log.undelivered(number, action))
        event = self._perform(number, state, waiting)
        if event is None:
            return False
        self._happen(number, state, event)
        return True

    def _perform(self, number: int, state: State, actions: tuple[Action, ...]) -> Event | None:
        event = None
        for action in actions:
            answer = self._act(number, state, action)
            event = answer if answer is not None else event
            self._durably(type(action).__name__)
        return event

    def _act(self, number: int, state: State, action: Action) -> Event | None:
        event: Event | None = None
        match action:
            case Train():
                event = self._work.train(context_of(state), self._timing(number))
            case Seal():
                event = self._work.seal(context_of(state), self._timing(number))
            case SendUpdate():
                event = self._send_update(number)
            case SealRelease():
                event = self._seal_release(number, state)
            case SendJoin() | SendWithdrawal() | SendFingerprint() | SendConsent() | SendRelease() | SendApplied():
                event = self._send(number, action)
            case OpenSum():
                event = self._open(number, state)
            case EraseUpdate():
                self._finish(number, state)
        return event

    def _open(self, number: int, state: State) -> Event:
        ctx = context_of(state)
        checked = self._log.certified(number, ctx)
        try:
            self._work.fetched(number).bring(checked, self._fetch(number))
            opener = self._opener(ctx, checked)
        except Rejected as error:
            return self._rejected(number, error)
        return self._work.open(ctx, checked.commit, opener, self._timing(number))

    def _opener(self, ctx: RoundContext, checked: CheckedTranscript) -> Opener:
        """How the sum is opened; with one-time keys, by what was released.

        While that is not enough, or some of it is wrong, more may come: then it, or the opener, raises Unavailable; if
        none can come any more, Rejected.
        """
        cipher, members = self._cipher, len(checked.commit.members)
        if not isinstance(cipher, KeyedCipher):
            return lambda fetched: cipher.open(ctx, fetched, members)
        number = ctx.round_number
        shown = tuple(self._port.fetch_releases(self._member.job, number))
        with self._patient(ctx, len(shown)):
            key = cipher.rounds.rebuild(ctx, checked.digest, self._log.joins(number), members, shown)

        def opened(fetched: FetchedSum) -> Iterator[npt.NDArray[np.uint32]]:
            with self._patient(ctx, len(shown)):
                yield from cipher.open(ctx, fetched, members, key)

        return opened

    @contextmanager
    def _patient(self, ctx: RoundContext, released: int) -> Iterator[None]:
        """What does not open yet may open with more releases, while there can be more."""
        try:
            yield
        except VerificationError as error:
            complete = released == len(ctx.participants)
            if complete or self._port.get_round(self._member.job, ctx.round_number).phase is RoundPhase.ABORTED:
                raise Rejected.of(error) from error
            why = f"does not open yet: {error.what} {error.why}"
            raise Unavailable(
                f"sum of round {ctx.round_number}", why, "It is tried again with more releases."
            ) from error

    def _seal_release(self, number: int, state: State) -> ReleaseSealed | NothingToRelease:
        """Step 6: only on a certificate that was checked and stored."""
        if self._keyed is None or not isinstance(state, Certified):
            raise InternalError(f"round {number}", "has nothing to release", "Report this; nothing was sent.")
        return self._keyed.seal_release(state.ctx, state.transcript, self._log.joins(number))

    def _send_release(self, release: Signed) -> None:
        if self._keyed is None:
            raise InternalError("release", "is of a suite without", "Report this; nothing was sent.")
        body, mails = self._keyed.released(read(release, Release).round)
        self._port.send_release(release, body, mails)

    def _send(self, number: int, action: Action) -> Event | None:
        """Send a stored statement.

        One whose time is over is done with: the round's phase says what follows. A refusal that is not about the
        statement (certificate, role, version) is raised, and it is sent again.
        """
        name, taken = self._log.sent_by(action), True
        signed = None if name is None else self._log.said(number, name)
        if name is not None and signed is not None:
            taken = self._deliver(number, action, name, signed)
        if isinstance(action, SendApplied):
            return ReportAccepted()
        return FingerprintAccepted() if isinstance(action, SendFingerprint) and taken else None

    def _deliver(self, number: int, action: Action, name: str, signed: Signed) -> bool:
        """Whether the aggregator took it; either way it is not sent again."""
        taken = True
        try:
            self._port_for[type(action)](signed)
        except ProtocolError as error:
            taken = False
            LOG.warning("the aggregator did not take it", round=number, action=type(action).__name__, exc_info=error)
        with self._home.store.writing() as tx:
            mark_delivered(tx.connection, self._member.job, number, name)
        return taken

    def _send_update(self, number: int) -> Event:
        header = self._log.header(number)
        if header is None:
            return UpdateRejected("its header is missing from silo.db")
        layout, job, started = self._work.layout, self._member.job, time.monotonic()
        try:
            self._port.submit_update(header, lambda: self._stored_parts(number))
        except ProtocolError as error:
            if header in self._port.get_round(job, number).headers:
                return UpdateAccepted()  # an earlier try had been taken when this one came too late
            LOG.warning("the update was not taken", round=number, exc_info=error)
            return UpdateRejected(f"{error.what}: {error.why}")
        self._timing(number).submit_s = time.monotonic() - started
        self._board.add_sent(layout.upload_bytes + len(header.body) + len(header.signature))
        return UpdateAccepted()

    def _stored_parts(self, number: int) -> UpdateParts:
        outbox, job = self._home.outbox, self._member.job
        for part in outbox.attachment(job, number):
            yield wire.UpdatePart(seeds=part) if self._keyed is None else wire.UpdatePart(mails=part)
        for chunk in outbox.residues(job, number, self._work.layout):
            yield wire.UpdatePart(residues=chunk)

    def _finish(self, number: int, state: State) -> None:
        """The round is over here: evaluate what came of it, note how long it took, clear the disk."""
        self._work.erase(number)
        if self._keyed is not None and isinstance(state, ENDS):
            self._keyed.forget(number)
        self._records.pop(number, None)
        started, timing = self._timings.pop(number, (0.0, None))
        if isinstance(state, Applied):
            self._work.shelf.drop_before(number)
            if timing is not None:
                timing.round_s = time.monotonic() - started
                timing.append_to(self._home.folder)
            self._work.evaluate(number)

    def _timing(self, number: int) -> Timing:
        fresh = (time.monotonic(), Timing(self._member.job.hex(), number, self._member.plan.values))
        return self._timings.setdefault(number, fresh)[1]
