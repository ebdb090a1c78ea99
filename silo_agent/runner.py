"""One job's rounds at this silo: see where the aggregator is, let the machine decide, record durably, act.

Level-triggered: `advance` may be called at any moment, as often as one likes, also after a kill -9. What is sent was
stored first; a round that was left in the middle of training is spent and withdrawn. Steps are those of protocol.md.
"""

import time
from collections.abc import Callable
from datetime import datetime

import structlog
from cloister import wire

from privacy.errors import CloisterError, Unavailable
from silo_agent.ciphers import KeyedCipher
from silo_agent.client import AggregatorPort
from silo_agent.home import Home
from silo_agent.membership import Membership
from silo_agent.observer import Observer
from silo_agent.opening import Opening
from silo_agent.round import step
from silo_agent.round_events import (
    Action,
    EraseUpdate,
    Event,
    OpenSum,
    ReservationDenied,
    Restarted,
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
)
from silo_agent.round_log import Denied, RoundLog, context_of
from silo_agent.round_states import ENDS, Applied, Idle, Released, Reserved, State, Trained
from silo_agent.round_tools import RoundTools
from silo_agent.round_work import RoundWork
from silo_agent.sender import Sender
from silo_agent.source import UpdateSource
from silo_agent.statements import journalled_rounds, round_state
from silo_agent.status import JobBoard, Timing

LOG = structlog.get_logger("silo.round")
Durably = Callable[[str], None]


def nothing_more(_point: str) -> None:
    """What happens after a durable write outside of tests: nothing."""


class RoundRunner:
    """Runs the rounds of one job. `interrupted(round)` says why training should stop, or None.

    `durably` is called with a name after every durable write and every action; tests stop the process there.
    `show_ledger` is called before an update leaves: the aggregator then holds a checkpoint with its charge, and as many
    witnesses as are asked for have cosigned it. What it raises stops that.
    """

    def __init__(  # noqa: PLR0913 - what a job, and what tests, give it
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
        show_ledger: Callable[[], None],
    ) -> None:
        self._home = home
        self._port = port
        self._member = membership
        self._board = board
        self._clock = clock
        self._durably = durably
        self._show_ledger = show_ledger
        self._work = RoundWork(home, membership, source, board, interrupted)
        self._keyed = self._work.cipher.rounds if isinstance(self._work.cipher, KeyedCipher) else None
        self._log = RoundLog(home, membership, clock, self._keyed)
        tools = RoundTools(home, port, membership, board, self._work, self._log)
        self._observer, self._opening, self._sender = Observer(tools), Opening(tools), Sender(tools)
        self._timings: dict[int, tuple[float, Timing]] = {}
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
            event = self._observer.observe(number, state, view, certified=certified)
            if isinstance(event, RoundAnnounced):
                self._timing(number)  # it begins to run
            if event is not None:
                self._happen(number, state, event)
            elif not self._resend(number, state):
                return

    def _happen(self, number: int, state: State, first: Event) -> None:
        """One event and what follows from it at once."""
        event: Event | None = first
        while event is not None:
            following, actions = step(state, event, self._clock())
            written = self._log.write(number, state, event, following, actions, self._observer.records.get(number))
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
        self._forget_shares(number, state)
        if checkpoint is not None:
            self.published_through = checkpoint

    def _forget_shares(self, number: int, state: State) -> None:
        """Step 9, its beginning; again after a restart, for the process may have died in between."""
        if isinstance(state, Released) and self._keyed is not None:
            self._keyed.forget_shares(number)

    def _resend(self, number: int, state: State) -> bool:
        """Do again what is not known to have been done; whether the round moved on by it."""
        if isinstance(state, Idle):
            return False
        self._forget_shares(number, state)
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
                self._show_ledger()  # what the update costs is known to others before it leaves
                event = self._sender.send_update(number, self._timing(number))
            case SealRelease():
                event = self._opening.seal_release(number, state)
            case SendJoin() | SendWithdrawal() | SendFingerprint() | SendConsent() | SendRelease() | SendApplied():
                event = self._sender.send(number, action)
            case OpenSum():
                event = self._opening.open(number, state, self._timing(number))
            case EraseUpdate():
                self._finish(number, state)
        return event

    def _finish(self, number: int, state: State) -> None:
        """The round is over here: evaluate what came of it, note how long it took, clear the disk."""
        self._work.erase(number)
        if self._keyed is not None and isinstance(state, ENDS):
            self._keyed.forget(number)
        self._observer.records.pop(number, None)
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
