"""Owns the machines: every job as it stands, and one clerk thread for deadlines and departures.

Two locks. `_turns` lets one step happen at a time and is held through its transaction and its work on the disk.
`_changed` guards what is in memory. It is held for moments only, never while the database or a disk is waited for, and
taken last: whoever reads, also with a database connection in hand, waits for no step.

After a restart, even by SIGKILL, `resume` rebuilds every state from the database; silos get `grace_s` seconds for what
they could not send meanwhile.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from aggregator import job as jobs
from aggregator import round_states as states
from aggregator.blobs import Blobs
from aggregator.job_events import PresenceChanged
from aggregator.live import LiveJob, Turn
from aggregator.presence import Presence, Stream
from aggregator.recovery import drop_leftovers, rebuilt, sweep
from aggregator.round_events import DeadlinePassed, Restarted
from aggregator.store import Store, Transaction
from aggregator.tables import LEDGER
from certs.identity import Identity
from privacy.errors import CloisterError, ProtocolError
from runtime.ledger_store import Ledger, LogIdentity

LOG = structlog.get_logger("aggregator")
LONGEST_WAIT_S = 3600.0
RETRY_S = 5.0
RECHECK_S = 5.0  # how soon an open stream ends after its certificate expired or was revoked
T = TypeVar("T")


class Runner:
    """All jobs of one aggregator. Every method may be called from any thread."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        identity: Identity,
        clock: Callable[[], datetime],
        *,
        grace_s: float,
        keep_s: float,
        hourly: Callable[[datetime], None] = lambda _now: None,
    ) -> None:
        self.store = store
        self.blobs = blobs
        self.identity = identity
        self.clock = clock
        self.presence = Presence()
        self._grace_s = grace_s
        self._keep = timedelta(seconds=keep_s)
        self._hourly = hourly
        self._jobs: dict[bytes, LiveJob] = {}
        self._turns = threading.RLock()
        self._changed = threading.Condition(threading.Lock())
        self._inbox: queue.SimpleQueue[Stream | None] = queue.SimpleQueue()
        self._not_before: dict[bytes, datetime] = {}
        self._untold: dict[bytes, frozenset[str]] = {}  # jobs that could not be told who is connected, and who came
        self._recheck_s = 0.0
        self._stopping = False
        self._version = 0
        self._clerk = threading.Thread(target=self._work, name="clerk", daemon=True)

    # -- life ----------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Rebuild every job from the database; raises VerificationError if the ledger is not as it was written."""
        with self.store.transaction() as tx:
            ledger = Ledger.begin(tx.connection, LEDGER, LogIdentity.of(self.identity))
            ledger.check()
            for row in tx.jobs():
                self._jobs[row.job] = rebuilt(tx, row)
            sweep(tx, self.blobs, self._jobs)
        for live in list(self._jobs.values()):
            if isinstance(live.state, jobs.OPEN_JOB):
                drop_leftovers(self.store, self.blobs, live)
                with self.turn(live.job) as turn:
                    if isinstance(live.round, states.OPEN_ROUND):
                        turn.tell_round(Restarted(self._grace_s), live.round.terms.number)
                    turn.tell_job(Restarted(self._grace_s))

    def start(self) -> None:
        """Begin to watch deadlines."""
        self._clerk.start()

    def stop(self) -> None:
        """End all streams and the clerk. What was accepted is on disk already."""
        self._stopping = True
        self._tell_all()
        if self._clerk.is_alive():
            self._clerk.join(timeout=30)

    # -- turns ---------------------------------------------------------------------------------------------------------

    def live(self, job: bytes) -> LiveJob:
        """A job as it stands: a copy. Raises ProtocolError for one that was never submitted."""
        with self._changed:
            return replace(self._known(job))

    def all_jobs(self) -> tuple[LiveJob, ...]:
        """Every job as it stands, oldest first: copies."""
        with self._changed:
            return tuple(replace(live) for live in self._jobs.values())

    def _known(self, job: bytes) -> LiveJob:
        live = self._jobs.get(job)
        if live is None:
            raise ProtocolError(
                f"job {job.hex()[:12]}", "is not known here", "Ask the coordinator which jobs there are."
            )
        return live

    @contextmanager
    def turn(self, job: bytes) -> Iterator[Turn]:
        """One durable step of one job; if the block raises, nothing happened."""
        with self._turns:
            live = self._known(job)
            with self.store.transaction() as tx:
                turn = Turn(
                    live,
                    tx,
                    self.clock(),
                    connected=self.presence.connected,
                    blobs=self.blobs,
                    identity=self.identity,
                )
                yield turn
            with self._changed:
                over = turn.settle()
            for cancel in over:
                cancel()
            turn.tidy_up()
        self._tell_all()

    def adopt(self, live: LiveJob, record: Callable[[Transaction], None]) -> None:
        """Take in a new job. `record` stores it; raises ProtocolError if its digest is known already."""
        with self._turns:
            if live.job in self._jobs:
                raise ProtocolError(
                    f"job {live.plan.name}", "was submitted before", "Plan it again: a fresh nonce makes it a new job."
                )
            with self.store.transaction() as tx:
                record(tx)
            with self._changed:
                self._jobs[live.job] = live
        self._tell_all()

    def _tell_all(self) -> None:
        """Something changed: streams look again, the clerk computes its next deadline."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()
        self._inbox.put(None)

    @contextmanager
    def uploading(self, job: bytes, number: int, silo: str, cancel: Callable[[], object]) -> Iterator[None]:
        """While a silo sends its update of a round: `cancel` is called when it sends another, or the round goes on.

        Raises ProtocolError unless the round takes updates.
        """
        with self._changed:
            live = self._known(job)
            if not live.collects(number):
                raise ProtocolError(f"round {number}", "takes no update", "Ask for the round (GetRound).", sender=silo)
            older, live.uploads[silo] = live.uploads.get(silo), cancel
        if older is not None:
            older()
        try:
            yield
        finally:
            with self._changed:
                if live.uploads.get(silo) is cancel:
                    del live.uploads[silo]

    # -- streams -------------------------------------------------------------------------------------------------------

    def open_stream(self, stream: Stream) -> None:
        """A silo follows, or a coordinator watches. An older stream of the same silo ends."""
        replaced = self.presence.opened(stream)
        if replaced is not None:
            replaced.closed = True
            replaced.cancel()
        if stream.silo is not None:
            self._presence_changed(stream.silo, back=True)
        self._tell_all()

    def close_stream(self, stream: Stream) -> None:
        """The caller is gone. Does not block: gRPC calls this on the thread that serves all connections."""
        self._inbox.put(stream)

    def changes(self, stream: Stream, look: Callable[[], T]) -> Iterator[T]:
        """`look()` at once and whenever anything changed, until the stream is closed; no lock is held meanwhile."""
        seen = -1
        while True:
            with self._changed:
                while self._version == seen and not (stream.closed or self._stopping):
                    self._changed.wait()
                if stream.closed or self._stopping:
                    return
                seen = self._version
            yield look()

    def heard_of(self, silo: str, job: bytes) -> None:
        """A silo that was silent speaks again about a job: wait for it in the next round."""
        progress = getattr(self.live(job).state, "progress", None)
        if progress is not None and silo in progress.absent:
            with self.turn(job) as turn:
                self._tell_presence(turn, frozenset({silo}))

    def _presence_changed(self, silo: str, *, back: bool) -> None:
        for live in self.all_jobs():
            if isinstance(live.state, jobs.Gathering | jobs.Running) and silo in live.state.members:
                self._attempt_presence(live, frozenset({silo} if back else ()))

    def _attempt_presence(self, live: LiveJob, back: frozenset[str]) -> None:
        """Tell a job who is connected; what could not be told is told again by the clerk."""
        with self._changed:
            told = back | self._untold.pop(live.job, frozenset())
        if not self._attempt(live, lambda turn: self._tell_presence(turn, told)):
            with self._changed:
                self._untold[live.job] = told | self._untold.get(live.job, frozenset())

    def _tell_presence(self, turn: Turn, back: frozenset[str]) -> None:
        if isinstance(turn.job, jobs.Gathering | jobs.Running):
            turn.tell_job(PresenceChanged(self.presence.connected, back))

    # -- the clerk -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        hour = timedelta(seconds=LONGEST_WAIT_S)
        next_chores = self.clock() + hour
        while not self._stopping:
            if self.clock() >= next_chores:
                next_chores = self.clock() + hour
                self._do_chores()
            try:
                stream = self._inbox.get(timeout=self._seconds_to_wait())
            except queue.Empty:
                stream = None
            if stream is not None:
                self._departed(stream)
            self._recheck_streams()
            for live in self.all_jobs():
                self._pass_deadline(live)

    def _do_chores(self) -> None:
        try:
            self._hourly(self.clock())
        except Exception:  # as in `_attempt`
            LOG.exception("hourly work failed and will be tried again")

    def _departed(self, stream: Stream) -> None:
        stream.closed = True
        if self.presence.closed(stream) and stream.silo is not None:
            self._presence_changed(stream.silo, back=False)
        self._tell_all()

    def _recheck_streams(self) -> None:
        """End the streams of whoever may no longer be here: a revoked silo is not waited for."""
        if time.monotonic() < self._recheck_s:
            return
        self._recheck_s = time.monotonic() + RECHECK_S
        for stream in self.presence.streams:
            try:
                stream.check()
            except CloisterError as error:
                LOG.warning("stream ended", exc_info=error)
                stream.cancel()
                self._departed(stream)

    def _seconds_to_wait(self) -> float:
        moments = [moment for live in self.all_jobs() if (moment := self._next_moment(live)) is not None]
        longest_s = RECHECK_S if self.presence.streams else LONGEST_WAIT_S
        if not moments:
            return longest_s
        return min(longest_s, max(0.0, (min(moments) - self.clock()).total_seconds()))

    def _next_moment(self, live: LiveJob) -> datetime | None:
        moment = live.deadline_utc
        if live.closed_utc is not None:
            moment = None if live.forgotten else live.closed_utc + self._keep
        elif live.job in self._untold:
            moment = self.clock()
        after = self._not_before.get(live.job)
        return moment if moment is None or after is None else max(moment, after)

    def _pass_deadline(self, live: LiveJob) -> None:
        moment = self._next_moment(live)
        if moment is None or moment > self.clock():
            return
        if live.closed_utc is not None:
            self._attempt(live, Turn.forget)
            return
        if live.job in self._untold:
            self._attempt_presence(live, frozenset())
        self._attempt(live, _pass_deadline)

    def _attempt(self, live: LiveJob, act: Callable[[Turn], None]) -> bool:
        """Our own events have nobody to tell an error to: log it, and try again a little later. Whether it was done."""
        try:
            with self.turn(live.job) as turn:
                act(turn)
        except Exception:  # whatever it was, the other jobs' deadlines must not die of it
            LOG.exception("a step failed and will be tried again", job=live.job.hex()[:12])
            self._not_before[live.job] = self.clock() + timedelta(seconds=RETRY_S)
            return False
        self._not_before.pop(live.job, None)
        return True


def _pass_deadline(turn: Turn) -> None:
    if isinstance(turn.round, states.OPEN_ROUND):
        turn.tell_round(DeadlinePassed(), turn.round.terms.number)
    else:
        turn.tell_job(DeadlinePassed())
