"""`silo run`: the daemon. Dials out, follows the aggregator's notices, keeps one thread a job going.

An error of one job is logged and shown, and concerns that job alone. The daemon ends when it is told to (SIGTERM), or
when its own state folder cannot be used.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog
from cloister import wire
from cloister.wire import RoundPhase

from certs.names import Role
from privacy.errors import CloisterError, InternalError, Unavailable
from privacy.ledger.witness import RewrittenError
from silo_agent.admission import ForeignJobError
from silo_agent.asking import Unanswered
from silo_agent.ciphers import warm_up
from silo_agent.client import AggregatorPort
from silo_agent.entries import software
from silo_agent.home import Home
from silo_agent.jobs import all_jobs
from silo_agent.leftovers import sweep
from silo_agent.participation import Participation
from silo_agent.status import StatusBoard
from silo_agent.witnessing import Showing, Unwitnessed, Witnessing

LOG = structlog.get_logger("silo")
DECISION_POLL_S = 0.7  # silo.db is looked at this often while a job waits for its steward, and only then
RETRY_LEAST_S = 0.5
RETRY_MOST_S = 30.0
RENEWAL_CHECK_S = 3600.0
COLLECTING_EVERY_S = 5.0  # at most, between two exchanges of checkpoints while a round's updates are collected
JOIN_S = 10.0  # how long all jobs together may take to end
MOST_OPEN_JOBS = 64  # an aggregator that names more gets no thread, no row and no file for them
MOST_REMEMBERED = 1024  # jobs that are over or not ours, which notices are not to take up again


class JobThread:
    """Keeps one job going: advances it on every notice, on retry, and while it waits for its steward.

    `ended` is called when the thread ends by itself: with None if the job is over, else with what made it give up.
    """

    def __init__(
        self,
        make: Callable[[Callable[[int], str | None]], Participation],
        name: str,
        ended: Callable[[Unanswered | None], None] = lambda _why: None,
    ) -> None:
        self._participation = make(self._interrupted)
        self._ended = ended
        self._changed = threading.Condition()
        self._notice: wire.Notice | None = None
        self._awake = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"job-{name[:12]}", daemon=True)
        self._name = name

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self, notice: wire.Notice | None) -> None:
        """Look at the job again; a notice also tells a running training whether its round goes on."""
        with self._changed:
            self._notice = notice or self._notice
            self._awake = True
            self._changed.notify()

    def stop(self) -> None:
        """End at the next safe point; training stops at its next step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the end, so long."""
        self._thread.join(timeout_s)

    @property
    def collecting(self) -> bool:
        """Whether its silos train and send updates now, so far as this one was told."""
        notice = self._notice
        return notice is not None and not notice.job_phase.closed and notice.round_phase is RoundPhase.COLLECTING

    @property
    def alive(self) -> bool:
        """Whether it may still write to the state folder."""
        return self._thread.is_alive()

    def _interrupted(self, number: int) -> str | None:
        notice = self._notice
        if self._stopping:
            return "the agent was stopped"
        if notice is None:
            return None
        if notice.job_phase.closed:
            return "the job ended"
        if notice.round > number or (notice.round == number and notice.round_phase > RoundPhase.COLLECTING):
            return "the round went on without this update"
        return None

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                if not self._wait(failures):
                    return
                if self._participation.advance().over:
                    break
                failures = 0
            except ForeignJobError as error:
                self._participation.complain(error)
                LOG.warning("job not ours", job=self._name[:12], exc_info=error)
                break
            except Unanswered as error:
                self._participation.complain(error)
                LOG.warning("job given up", job=self._name[:12], exc_info=error)
                self._ended(error)
                return
            except Unwitnessed as error:
                failures += 1
                self._participation.complain(error)
                LOG.warning("job waits for witnesses", job=self._name[:12], why=error.why)
            except Unavailable as error:
                failures += 1
                LOG.info("aggregator away", job=self._name[:12], why=error.why)
            except CloisterError as error:
                failures += 1
                self._participation.complain(error)
                LOG.warning("job in trouble", job=self._name[:12], exc_info=error)
            except Exception as error:  # a bug in one job must not end the others
                failures += 1
                LOG.exception("job failed", job=self._name[:12])
                why = f"met a bug ({type(error).__name__})"
                step = "It is tried again; report this, with the agent's log."
                self._participation.complain(InternalError(f"job {self._name[:12]}", why, step))
        self._ended(None)

    def _wait(self, failures: int) -> bool:
        """Until there is something to do; False when the thread shall end."""
        timeout = min(RETRY_LEAST_S * 2 ** min(failures, 10), RETRY_MOST_S) if failures else None
        seen = None if failures else self._participation.grounds()
        with self._changed:
            while not (self._awake or self._stopping):
                woken = self._changed.wait(timeout if seen is None else DECISION_POLL_S)
                if not woken and (seen is None or self._participation.grounds() != seen):
                    break
            self._awake = False
            return not self._stopping


class Agent:
    """The daemon over one state folder. `reconnect` makes the port use a new channel (a renewed certificate)."""

    def __init__(
        self,
        home: Home,
        port: AggregatorPort,
        reconnect: Callable[[], None],
        clock: Callable[[], datetime],
        board: StatusBoard,
    ) -> None:
        self._home = home
        self._port = port
        self._reconnect = reconnect
        self._clock = clock
        self._board = board
        self._jobs: dict[bytes, JobThread] = {}  # the open ones
        self._over: deque[bytes] = deque(maxlen=MOST_REMEMBERED)
        self._taking_up = threading.Lock()
        self._stopping = threading.Event()
        self._witnessing = Witnessing(home, clock())
        self._witnessed = False  # this state is the newest, as far as enough others know: jobs may be taken up
        self._to_witness = threading.Event()
        self._rewritten: RewrittenError | None = None

    def run(self) -> None:
        """Until `stop`. Raises CloisterError when the state folder itself cannot be used, RewrittenError when it is not
        the newest of this silo's ledger: then no job is taken up or goes on.
        """
        self._home.store.check()
        self._board.show(message="starting")
        warm_up()  # before anybody waits for this silo
        chores = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("renewal", self._renew_in_time), ("witness", self._witness_in_time))
        ]
        for chore in chores:
            chore.start()
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._follow()
            failures = 0 if time.monotonic() - began > RETRY_MOST_S else failures + 1
            self._stopping.wait(min(RETRY_LEAST_S * 2 ** min(failures - 1, 10), RETRY_MOST_S))
        open_jobs = self._open_jobs()
        for thread in open_jobs:
            thread.stop()
        deadline = time.monotonic() + JOIN_S
        for thread in open_jobs:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._to_witness.set()
        for chore in chores:
            chore.join(max(deadline - time.monotonic(), 0.0))
        if self._rewritten is not None:
            self._board.show(connected=False, message=str(self._rewritten))
            raise self._rewritten
        self._board.show(connected=False, message="stopped")

    @property
    def ended(self) -> bool:
        """Whether no job of this agent can write to the state folder any more."""
        return not any(thread.alive for thread in self._open_jobs())

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def _take_up(self) -> None:
        """Jobs that were under way when the daemon last ended; what is left of others is erased."""
        sweep(self._home)
        with self._home.store.reading() as connection:
            known = all_jobs(connection)
        for record in known:
            if not record.state.over and record.job not in self._jobs:
                self._take(record.job)

    def _follow(self) -> None:
        try:
            self._home.wallet.check(self._clock(), Role.SILO)
            self._require_newest()
            for notice in self._port.follow(software(), self._opened):
                self._noticed(notice)
                if self._stopping.is_set():
                    return
        except RewrittenError as error:
            self._give_up(error)
        except CloisterError as error:
            if not self._stopping.is_set():
                address = self._home.settings.aggregator
                LOG.warning("not connected", address=address, exc_info=error)
                self._board.show(connected=False, message=f"{address}: {error}")
        except Exception:
            LOG.exception("following failed")
            self._board.show(connected=False, message="following the aggregator failed; see the log")
        else:
            self._board.show(connected=False)

    def _require_newest(self) -> None:
        """Before anything is taken up: others know of no newer state of this silo's ledger, and enough say so.

        Raises RewrittenError, Unavailable while too few have answered.
        """
        if self._witnessed:
            return
        self._witnessing.start(self._port, self._clock())
        self._take_up()
        self._witnessed = True

    def _witness_in_time(self) -> None:
        """Exchange checkpoints every so often, after every round, and more often while updates of one are collected:
        others' wait for this silo's cosignature then.
        """
        every_s, last = self._home.settings.witnesses.every_s, time.monotonic()
        pause_s = min(every_s, COLLECTING_EVERY_S)
        while not self._stopping.is_set():
            asked = self._to_witness.wait(pause_s)
            self._to_witness.clear()
            due = asked or time.monotonic() - last >= every_s or any(job.collecting for job in self._open_jobs())
            if self._stopping.is_set() or not self._witnessed or not due:
                continue
            last = time.monotonic()
            try:
                pause_s = min(every_s, COLLECTING_EVERY_S * self._witnessing.pace)
                self._exchange()
            except RewrittenError:
                return
            except Unavailable as error:
                LOG.info("checkpoints not exchanged", why=error.why)
            except Exception as error:  # it is tried again; meanwhile nobody else knows of the newest entries
                LOG.warning("checkpoints not exchanged", exc_info=error)

    def _exchange(self) -> None:
        """Exchange checkpoints. Raises as `Witnessing.exchange`, and ends the agent if this state is not the newest."""
        with self._ending_if_rewritten():
            self._witnessing.exchange(self._port, self._clock())

    def _show_ledger(self) -> None:
        """Have the ledger witnessed as it is now, by the quorum. Raises as `Witnessing.show`, and ends the agent if
        this state is not the newest.
        """
        with self._ending_if_rewritten():
            self._witnessing.show(self._port, self._clock, self._stopping.wait)

    @contextmanager
    def _ending_if_rewritten(self) -> Iterator[None]:
        try:
            yield
        except RewrittenError as error:
            self._give_up(error)
            raise

    def _give_up(self, error: RewrittenError) -> None:
        LOG.error("this state is not the newest", exc_info=error)
        self._rewritten = error
        self._stopping.set()
        self._reconnect()  # ends the stream that is followed

    def _opened(self) -> None:
        LOG.info("connected", address=self._home.settings.aggregator)
        self._board.show(connected=True, message="")
        for thread in self._open_jobs():
            thread.wake(None)

    def _noticed(self, notice: wire.Notice) -> None:
        with self._taking_up:
            thread = self._jobs.get(notice.job)
            settled, full = notice.job in self._over, len(self._jobs) >= MOST_OPEN_JOBS
        if thread is None and not settled:
            if full:
                self._board.show(message=f"{MOST_OPEN_JOBS} jobs are open; no more are taken up: ask the coordinator")
                return
            thread = self._take(notice.job)
        if thread is not None:
            thread.wake(notice)

    def _take(self, job: bytes) -> JobThread:
        def ended(given_up: Unanswered | None) -> None:
            with self._taking_up:
                del self._jobs[job]
                if given_up is None:
                    self._over.append(job)

        thread = JobThread(lambda interrupted: self._participation(job, interrupted), job.hex(), ended)
        with self._taking_up:
            self._jobs[job] = thread
        thread.start()
        return thread

    def _open_jobs(self) -> list[JobThread]:
        with self._taking_up:
            return list(self._jobs.values())

    def _participation(self, job: bytes, interrupted: Callable[[int], str | None]) -> Participation:
        return Participation(
            self._home,
            self._port,
            job,
            self._board,
            clock=self._clock,
            interrupted=interrupted,
            showing=Showing(self._show_ledger, self._to_witness.set),
        )

    def _renew_in_time(self) -> None:
        """A new TLS certificate when a third of the old one's life is left; then a new channel."""
        while not self._stopping.is_set():
            try:
                wallet = self._home.wallet
                if wallet.renewal_due(self._clock()):
                    answer = self._port.renew_certificate(wallet.renewal_request())
                    wallet.install_renewal(answer, self._clock())
                    LOG.info("certificate renewed")
                    self._reconnect()
            except Exception as error:  # whatever it was: the certificate in use stands, and time is left to try again
                LOG.warning("certificate not renewed", exc_info=error)
            self._stopping.wait(RENEWAL_CHECK_S)
