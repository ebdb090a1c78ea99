"""Starting and ending the agent as a process: lock, signals, channel, metrics."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog

from certs.names import Role
from runtime.channels import open_channel
from runtime.files import StateLock
from silo_agent.agent import Agent
from silo_agent.client import GrpcAggregator
from silo_agent.home import Home
from silo_agent.metrics import silo_metrics
from silo_agent.status import StatusBoard

ENDING = (signal.SIGTERM, signal.SIGINT)
LOG = structlog.get_logger("silo")


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


def run_until_signalled(state: Path, clock: Callable[[], datetime] = utc_now) -> str:
    """Run until SIGTERM or SIGINT; returns the silo's name. What was decided is on disk however it ends.

    Raises ConfigError when the folder is in use or not enrolled, or when its certificates cannot be used now. When a
    job's thread did not end in time the folder stays locked until this process does, since it may still write.
    """
    home = Home.open(state)
    with contextlib.ExitStack() as lock:
        lock.enter_context(StateLock(state))
        home.wallet.settle()
        home.wallet.check(clock(), Role.SILO)
        port = GrpcAggregator(lambda: _channel(home, clock))
        board = StatusBoard(state, home.name, clock)
        agent = Agent(home, port, port.reconnect, clock, board)

        def end() -> None:
            agent.stop()
            port.close()

        stop_metrics = silo_metrics(board, home.settings.metrics_port)
        LOG.info("agent starts", party=home.identity.party.uri, address=home.settings.aggregator, pid=os.getpid())
        try:
            with ended_by_signals(end):
                agent.run()
        finally:
            stop_metrics()
            if agent.ended:
                home.store.close()
            else:
                lock.pop_all()
        LOG.info("agent stopped")
    return home.name


@contextlib.contextmanager
def ended_by_signals(end: Callable[[], None]) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT call `end`: in a thread of its own, never inside the handler.

    A handler runs between two steps of whatever the main thread was doing, and would wait for ever for a lock that the
    main thread holds.
    """
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put may interrupt itself

    def wait() -> None:
        if arrived.get():
            end()

    waiting = threading.Thread(target=wait, name="signals", daemon=True)
    waiting.start()
    before = {number: signal.signal(number, lambda came, _: arrived.put(came)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        arrived.put(0)
        waiting.join()


def _channel(home: Home, clock: Callable[[], datetime]) -> grpc.Channel:
    return open_channel(home.settings.aggregator, home.wallet, clock())
