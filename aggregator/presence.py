"""Who is connected: the newest open Follow stream of each silo, and the coordinators' watches."""

import threading
from collections.abc import Callable


def _good() -> None:
    """For streams without a certificate behind them."""


def _nothing_to_end() -> None:
    """For streams without a call behind them."""


class Stream:
    """One open stream of a silo or, without a name, of a watcher; `closed` once it is over.

    `check` raises once its caller may no longer be here; `cancel` ends its call, from any thread, without waiting.
    """

    def __init__(
        self, silo: str | None, check: Callable[[], object] = _good, cancel: Callable[[], object] = _nothing_to_end
    ) -> None:
        self.silo = silo
        self.check = check
        self.cancel = cancel
        self.closed = False


class Presence:
    """One stream a silo, the newest: an older one is replaced. Safe to use from any thread; waits for nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silos: dict[str, Stream] = {}
        self._watches: set[Stream] = set()

    def opened(self, stream: Stream) -> Stream | None:
        """A stream was opened; returns the one it replaces."""
        with self._lock:
            if stream.silo is None:
                self._watches.add(stream)
                return None
            replaced = self._silos.get(stream.silo)
            self._silos[stream.silo] = stream
            return replaced

    def closed(self, stream: Stream) -> bool:
        """A stream is over. True if its silo is connected no more."""
        with self._lock:
            self._watches.discard(stream)
            if stream.silo is None or self._silos.get(stream.silo) is not stream:
                return False
            del self._silos[stream.silo]
            return True

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All open streams."""
        with self._lock:
            return (*self._silos.values(), *self._watches)

    @property
    def connected(self) -> frozenset[str]:
        """Silos with an open stream."""
        with self._lock:
            return frozenset(self._silos)
