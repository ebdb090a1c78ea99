"""One job at this silo from the first notice to the last: decide, join, get the cohort's key, run rounds, clean up.

Level-triggered like the rounds: `advance` asks the aggregator how the job stands and goes as far as it can. Phases are
those of docs/reference/protocol.md, "The job".
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from cloister import wire
from cloister.wire import JobPhase
from sqlalchemy import Connection

from privacy.budget import BudgetPolicy, BudgetRefusal
from privacy.errors import (
    CloisterError,
    ConfigError,
    InternalError,
    ProtocolError,
    Refused,
    Unavailable,
    VerificationError,
)
from privacy.mail import MailKey
from privacy.plan import JobPlan
from privacy.roll import JobJoin, JobRefusal, KeyDeal, Roll, check_roll, dealer_of
from privacy.statement import Signed
from runtime.files import write_durably
from silo_agent import approval, entries
from silo_agent.accounts import all_budgets, find_budget, require_budget
from silo_agent.admission import ForeignJobError, check_plan, check_price
from silo_agent.apply import AdapterShelf
from silo_agent.archive import PREFLIGHT_FILE
from silo_agent.asking import Asking
from silo_agent.client import AggregatorPort
from silo_agent.deal import dealt_mails, prepare_deal, take_deal
from silo_agent.home import Home
from silo_agent.jobs import (
    OPEN,
    WAITING,
    AcceptedRoll,
    JobMoved,
    JobRecord,
    JobState,
    accept_roll,
    accepted_roll,
    add_job,
    find_job,
    forget_undecided,
    require_job_record,
    set_job_state,
)
from silo_agent.leftovers import forget
from silo_agent.membership import Membership
from silo_agent.peers import trusted_peers
from silo_agent.policy import Ask, decide
from silo_agent.preparation import Preparation, Sources
from silo_agent.register import all_datasets, require_dataset
from silo_agent.runner import Durably, RoundRunner, nothing_more
from silo_agent.source import source_for
from silo_agent.statements import mark_delivered, said, say, undelivered
from silo_agent.status import StatusBoard, budget_facts
from silo_agent.sums import Rejected
from silo_agent.vault import Secret
from silo_agent.witnessing import Showing

LOG = structlog.get_logger("silo.job")
CLOSED = {
    JobPhase.FINISHED: JobState.FINISHED,
    JobPhase.STOPPED: JobState.STOPPED,
    JobPhase.CANCELLED: JobState.CANCELLED,
}


class Participation:
    """One job of one silo. `sources` makes what runs the mechanism; the rest as in RoundRunner."""

    def __init__(  # noqa: PLR0913 - what the agent, and what tests, give it
        self,
        home: Home,
        port: AggregatorPort,
        job: bytes,
        board: StatusBoard,
        *,
        clock: Callable[[], datetime],
        showing: Showing,
        interrupted: Callable[[int], str | None] = lambda _round: None,
        sources: Sources = source_for,
        durably: Durably = nothing_more,
    ) -> None:
        self._home = home
        self._port = port
        self._job = job
        self._board = board.of_job(job)
        self._shown: tuple[JobState, str] | None = None
        self._in_trouble = False
        self._asking = Asking(home, port, job)
        self._clock = clock
        self._interrupted = interrupted
        self._durably = durably
        self._showing = showing
        self._preparation = Preparation(home, port, sources)
        self._runner: RoundRunner | None = None

    def advance(self) -> JobState:
        """Go as far as possible now; returns where the job then stands here.

        Raises Unavailable while the aggregator is away, and whatever else stands in the way: nothing is half done, and
        the next call takes it up again; but for Unanswered, which is about a job not worth a further one.
        """
        view = self._asking.look()
        before = None
        record = self._known(view)
        while record.state is not before:
            before = record.state
            try:
                self._step(record, view)
            except JobMoved as moved:  # a steward was quicker: what they decided stands, and is gone on with
                LOG.info("decided meanwhile", job=self._job.hex()[:12], why=moved.why)
            record = self._known(view)
        if not view.phase.closed or record.state.over:
            self._board.show(job_phase=view.phase.name)
        if self._in_trouble:
            self._in_trouble = False
            self._board.show(message=record.why)
        return record.state

    def grounds(self) -> object:
        """What a waiting decision rests on in silo.db, to be compared; None unless the job waits for its steward."""
        with self._home.store.reading() as connection:
            record = find_job(connection, self._job)
            if record is None or record.state is not JobState.SEEN:
                return None
            populations = [budget.policy.population for budget in all_budgets(connection)]
            return record.state, trusted_peers(connection), all_datasets(connection), populations

    def complain(self, error: CloisterError) -> None:
        """Show what stands in the way, until `advance` gets through."""
        self._in_trouble = True
        self._board.show(message=str(error))

    def _known(self, view: wire.Job) -> JobRecord:
        with self._home.store.reading() as connection:
            record = find_job(connection, self._job)
        if record is None:
            plan = self._own_plan(view)
            with self._home.store.writing() as tx:
                add_job(tx.connection, plan, self._clock())
            LOG.info("job", job=self._job.hex()[:12], plan=plan.name)
            return self._known(view)
        self._show(record)
        return record

    def _own_plan(self, view: wire.Job) -> JobPlan:
        """The plan, if it is one for this silo. Raises ForeignJobError: asking again would bring the same."""
        try:
            plan = JobPlan.decode(view.plan)
            check_plan(plan, self._job, self._home.settings.federation, self._home.name, self._home.identity.public_key)
        except ProtocolError as error:
            raise ForeignJobError(error.what, error.why, error.next_step, sender="aggregator") from error
        return plan

    def _step(self, record: JobRecord, view: wire.Job) -> None:
        if view.phase.closed and not record.state.over:
            self._close(record, view)
            return
        match record.state:
            case JobState.SEEN:
                self._decide(record)
            case JobState.APPROVED:
                self._join(record)
            case JobState.JOINED:
                self._deliver(0, JobJoin, self._port.join_job)
                self._deal(record, view)
            case JobState.READY:
                self._run(record, view)
            case JobState.REFUSED:
                self._deliver(0, JobRefusal, self._port.refuse_job)

    # -- approval ------------------------------------------------------------------------------------------------------

    def _decide(self, record: JobRecord) -> None:
        """By the policy file, if it may; else a steward's command is waited for. A job without a price is refused."""
        policy = self._home.settings.policy
        try:
            check_price(record.plan)
            decision = decide(record.plan, policy, self._policy_budget(record.plan))
            if isinstance(decision, Ask):
                self._wait(record, f"waits for a steward: {decision.why}")
                return
            terms = approval.Terms(decision.extra_rounds, accept_shared_noise=policy.shared_noise)
            approval.approve(self._home, record.plan, decision.dataset, self._author(), terms)
        except JobMoved:
            raise
        except BudgetRefusal as refusal:
            self._refuse(record, "budget", refusal)
        except (Refused, VerificationError) as error:
            self._refuse(record, "cannot-run", error)
        except ConfigError as error:
            self._wait(record, str(error))

    def _policy_budget(self, plan: JobPlan) -> BudgetPolicy | None:
        """The budget that the policy file would approve on; None where it approves nothing on data."""
        policy = self._home.settings.policy
        if plan.dp is None or not policy.auto_approve or policy.dataset is None:
            return None
        with self._home.store.reading() as connection:
            return require_budget(connection, require_dataset(connection, policy.dataset).population).policy

    def _wait(self, record: JobRecord, why: str) -> None:
        self._board.show(message=why)
        if record.why != why:
            LOG.info("job waits", job=self._job.hex()[:12], why=why)
            with self._home.store.writing() as tx:
                set_job_state(tx.connection, self._job, JobState.SEEN, self._clock(), why, expected=WAITING)

    def _join(self, record: JobRecord) -> None:
        """Prepare for real: fetch the starting adapter, run the self-test; then a fresh mail key and the JobJoin.

        A refusal is for good, so it is given only for what the job itself is. A fault of this machine (ConfigError) and
        whatever the aggregator answers are raised: the operator sees them, and it is tried again.
        """
        try:
            tested = self._preparation.check(record)
        except (Refused, VerificationError, Rejected) as error:
            self._refuse(record, "cannot-run", error)
            return
        if tested is not None:
            write_durably(self._home.results(self._job) / PREFLIGHT_FILE, tested.report)
        if not self._home.vault.has(self._job, Secret.MAIL_KEY):
            self._home.vault.put(self._job, Secret.MAIL_KEY, MailKey.generate().private_bytes)
        mail_key = MailKey(self._home.vault.get(self._job, Secret.MAIL_KEY)).public_bytes
        join = JobJoin(plan=self._job.hex(), silo=self._home.name, mail_key=mail_key.hex())
        with self._home.store.writing() as tx:
            set_job_state(tx.connection, self._job, JobState.JOINED, self._clock(), expected={JobState.APPROVED})
            say(tx.connection, 0, join, self._home.identity.sign)
            if tested is not None:
                tx.record(entries.self_test_entry(self._author(), record.plan, tested))
        self._durably("JobJoined")

    def _refuse(self, record: JobRecord, reason: approval.Reason, error: CloisterError) -> None:
        LOG.warning("job refused", job=self._job.hex()[:12], exc_info=error)
        approval.refuse(self._home, record.plan, reason, error, self._author(), expected={record.state})

    # -- the roll and the cohort's key ---------------------------------------------------------------------------------

    def _deal(self, record: JobRecord, view: wire.Job) -> None:
        if view.phase not in (JobPhase.DEALING, JobPhase.RUNNING):
            return
        roll = check_roll(record.plan, view.joins)
        if record.plan.suite.keyed and view.phase is not JobPhase.RUNNING:
            return
        if self._home.name not in roll.members:
            self._leave(record, "the cohort went on without this silo")
        elif record.plan.suite.keyed:
            self._accept(roll, None, b"")
        elif view.deal is None and dealer_of(self._job, roll) == self._home.name:
            self._make_deal(record, roll)
        elif view.deal is not None:
            statement = take_deal(record.plan, roll, view.deal, view.mail, self._home.name, self._home.vault)
            self._durably("KeyTaken")
            self._accept(roll, view.deal, bytes.fromhex(statement.key_commitment))

    def _make_deal(self, record: JobRecord, roll: Roll) -> None:
        with self._home.store.reading() as connection:
            spoken = said(connection, self._job, 0, KeyDeal.label())
        if spoken is not None:  # for an earlier roll: this silo deals once a job
            return
        statement = prepare_deal(record.plan, roll, self._home.name, self._home.vault)
        self._durably("DealPrepared")
        with self._home.store.writing() as tx:
            deal = say(tx.connection, 0, statement, self._home.identity.sign)
            self._accept_in(tx.connection, roll, deal, bytes.fromhex(statement.key_commitment))
        self._durably("Ready")

    def _accept(self, roll: Roll, deal: Signed | None, key_commitment: bytes) -> None:
        with self._home.store.writing() as tx:
            self._accept_in(tx.connection, roll, deal, key_commitment)
        self._durably("Ready")

    def _accept_in(self, connection: Connection, roll: Roll, deal: Signed | None, key_commitment: bytes) -> None:
        accept_roll(connection, self._job, roll.joins, deal, key_commitment)
        why = require_job_record(connection, self._job).why  # a steward may have refused further rounds
        set_job_state(connection, self._job, JobState.READY, self._clock(), why, expected={JobState.JOINED})

    def _leave(self, record: JobRecord, why: str) -> None:
        self._settle(record)
        LOG.warning("job left", job=self._job.hex()[:12], why=why)
        with self._home.store.writing() as tx:
            set_job_state(tx.connection, self._job, JobState.OUT, self._clock(), why, expected=OPEN)
        forget(self._home, self._job)

    # -- rounds --------------------------------------------------------------------------------------------------------

    def _run(self, record: JobRecord, view: wire.Job) -> None:
        with self._home.store.reading() as connection:
            accepted = accepted_roll(connection, self._job)
        if accepted is None:
            raise InternalError("job", "has a key and no roll", "Restore silo.db from a backup.")
        self._deliver(0, KeyDeal, lambda deal: self._port.deal_key(deal, dealt_mails(self._job, self._home.vault)))
        if view.deal is not None and view.deal != accepted.deal:
            self._leave(record, "the cohort uses another key than the one this silo accepted")
            return
        if view.phase not in (JobPhase.RUNNING, *CLOSED):
            return
        runner = self._rounds(record, accepted)
        runner.advance(view)
        if runner.published_through is not None:
            self._showing.soon()
            runner.published_through = None

    def _rounds(self, record: JobRecord, accepted: AcceptedRoll) -> RoundRunner:
        if self._runner is None:
            self._runner = RoundRunner(
                self._home,
                self._port,
                Membership.of(record.plan, self._home.name, accepted, self._preparation.charged(record)),
                self._preparation.source(record),
                self._board,
                clock=self._clock,
                interrupted=self._interrupted,
                durably=self._durably,
                show_ledger=self._showing.now,
            )
        return self._runner

    def _settle(self, record: JobRecord) -> None:
        """Before a job is left: no reservation of it stays open. One that cannot be settled stays charged."""
        with self._home.store.reading() as connection:
            accepted = accepted_roll(connection, self._job)
        if accepted is None:
            return
        try:
            self._rounds(record, accepted).settle()
        except CloisterError:
            LOG.exception("a reservation could not be settled", job=self._job.hex()[:12])

    def _close(self, record: JobRecord, view: wire.Job) -> None:
        """The job is over at the aggregator: catch up with what was opened, then forget its secrets."""
        if record.state is JobState.READY:
            try:
                self._run(record, view)
            except Unavailable:
                raise
            except CloisterError as error:
                LOG.warning("not every round could be applied", job=self._job.hex()[:12], exc_info=error)
        self._hand_over(record.plan, view)
        self._settle(record)
        with self._home.store.writing() as tx:
            set_job_state(tx.connection, self._job, CLOSED[view.phase], self._clock(), expected=OPEN)
            forget_undecided(tx.connection, self._job)
        forget(self._home, self._job)

    def _hand_over(self, plan: JobPlan, view: wire.Job) -> None:
        """A plan that opens to the aggregator as well: give it the last global adapter, unless another silo did."""
        if plan.open_to != "silos+aggregator" or not view.model_wanted:
            return
        with self._home.store.reading() as connection:
            record = require_job_record(connection, self._job)
        if record.adapter_round != view.model_wanted:
            return  # this silo missed the last round; one of the others has it
        shelf, number = AdapterShelf(self._home.artifacts(self._job), plan), record.adapter_round
        try:
            self._port.submit_model(self._job, number, lambda: shelf.parts(number))
        except ProtocolError as error:
            LOG.warning("the aggregator did not take the model", job=self._job.hex()[:12], exc_info=error)

    # -- small things --------------------------------------------------------------------------------------------------

    def _deliver(self, number: int, kind: type[JobJoin | JobRefusal | KeyDeal], send: Callable[[Signed], None]) -> None:
        """Send a stored statement that is not known to have arrived; one whose time is over is done with.

        A refusal that is not about the statement (certificate, role, version) is raised, and it is sent again.
        """
        with self._home.store.reading() as connection:
            waiting = undelivered(connection, self._job, number, kind.label())
        if waiting is None:
            return
        try:
            send(waiting)
        except ProtocolError as error:
            LOG.warning("the aggregator did not take it", job=self._job.hex()[:12], what=kind.label(), exc_info=error)
        with self._home.store.writing() as tx:
            mark_delivered(tx.connection, self._job, number, kind.label())

    def _author(self) -> entries.Author:
        return entries.Author(self._home.name, f"agent of {self._home.name}", "agent", self._clock())

    def _show(self, record: JobRecord) -> None:
        charged = self._preparation.charged(record)
        changes: dict[str, object] = {"job_name": record.name, "rounds": record.plan.rounds}
        if (record.state, record.why) != self._shown:  # what was waited for before is over
            self._shown, changes["message"] = (record.state, record.why), record.why
        if charged is not None:
            with self._home.store.reading() as connection:
                budget = find_budget(connection, charged.population)
            if budget is not None:
                changes |= budget_facts(budget)
        self._board.show(**changes)
