"""How many updates are read at once: memory stays that of a few streams, whatever the number of silos.

A stream that is not read yet holds next to nothing: gRPC's flow control keeps the sender waiting. Each silo has at most
one place. An upload that brings less than a MiB in `stall_s` while others wait for its place loses it; its silo sends
its stored bytes again later.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from privacy.errors import Unavailable

FULL_CREDIT_BYTES = 1 << 20


class Call(Protocol):
    """As much of grpc.ServicerContext as is needed here."""

    def cancel(self) -> object:
        """End the call, without waiting."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called when the call is over; False if it is over already."""


class Slot:
    """A place, held or waited for by one upload."""

    def __init__(self, silo: str, call: Call, until_s: float) -> None:
        self.silo = silo
        self.call = call
        self.until_s = until_s
        self.gone = False


class UploadSlots:
    """A fixed number of places, at most one a silo. Of the silos that have none, who waits longest comes next."""

    def __init__(self, places: int, stall_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._stall_s = stall_s
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._held: list[Slot] = []
        self._waiting: list[Slot] = []

    @contextmanager
    def place(self, silo: str, call: Call) -> Iterator[Slot]:
        """Wait for a place and hold it. Raises Unavailable if the call is over before its turn comes."""
        slot = Slot(silo, call, self._monotonic() + self._stall_s)
        if not call.add_callback(lambda: self._left(slot)):
            self._left(slot)
        self._enter(slot)
        try:
            yield slot
        finally:
            with self._changed:
                if slot in self._held:
                    self._held.remove(slot)
                self._changed.notify_all()

    def progressed(self, slot: Slot, size: int) -> None:
        """So many bytes of this upload came."""
        earned_s = self._stall_s * size / FULL_CREDIT_BYTES
        slot.until_s = min(slot.until_s + earned_s, self._monotonic() + self._stall_s)

    def _left(self, slot: Slot) -> None:
        with self._changed:
            slot.gone = True
            self._changed.notify_all()

    def _enter(self, slot: Slot) -> None:
        with self._changed:
            self._waiting.append(slot)
            try:
                while not self._is_next(slot):
                    if slot.gone:
                        raise Unavailable("upload", "its sender went away", "It sends its stored bytes again.")
                    if not self._drop_stalled(slot):
                        self._changed.wait(self._next_stall_s())
                slot.until_s = self._monotonic() + self._stall_s
                self._held.append(slot)
            finally:
                self._waiting.remove(slot)
                self._changed.notify_all()

    def _is_next(self, slot: Slot) -> bool:
        if slot.gone or len(self._held) >= self._places:
            return False
        busy = {held.silo for held in self._held}
        return slot is next((each for each in self._waiting if each.silo not in busy and not each.gone), None)

    def _drop_stalled(self, waiting: Slot) -> bool:
        """Take their places from uploads that stalled in this one's way; whether there were any."""
        full = len(self._held) >= self._places
        in_the_way = [slot for slot in self._held if full or slot.silo == waiting.silo]
        stalled = [slot for slot in in_the_way if self._left_s(slot) <= 0]
        for slot in stalled:
            self._held.remove(slot)
            slot.call.cancel()
        return bool(stalled)

    def _next_stall_s(self) -> float:
        """Until the next upload may be called stalled; looked at again when a place is given back."""
        return max(0.01, min((self._left_s(slot) for slot in self._held), default=self._stall_s))

    def _left_s(self, slot: Slot) -> float:
        return slot.until_s - self._monotonic()
