"""Places for uploads: never more than there are, one a silo, first come first served, none for who stands still."""

import threading
from collections.abc import Callable

import pytest

from aggregator.slots import FULL_CREDIT_BYTES, UploadSlots
from privacy.errors import Unavailable

PATIENCE_S = 20


class Call:
    """A call of nobody: remembers that it was cancelled, and whom to tell that it is over."""

    def __init__(self, *, over: bool = False) -> None:
        self.cancelled = False
        self.over = over
        self.asked = threading.Event()
        self.callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        self.cancelled = True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        self.asked.set()
        return not self.over

    def end(self) -> None:
        for callback in self.callbacks:
            callback()


class Late:
    """An upload on a thread of its own, that waits for a place."""

    def __init__(self, slots: UploadSlots, silo: str) -> None:
        self.call, self.entered, self.error = Call(), threading.Event(), None
        self.leave = threading.Event()
        self._slots, self._silo = slots, silo
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self._slots.place(self._silo, self.call):
                self.entered.set()
                self.leave.wait(PATIENCE_S)
        except Unavailable as error:
            self.error = error

    def end(self) -> None:
        self.leave.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def test_never_more_at_once_than_places() -> None:
    slots, lock, gate = UploadSlots(2, 60.0), threading.Lock(), threading.Barrier(2)
    inside, most = 0, 0

    def upload(silo: str) -> None:
        nonlocal inside, most
        with slots.place(silo, Call()):
            with lock:
                inside += 1
                most = max(most, inside)
            gate.wait(PATIENCE_S)  # two are inside, always: fewer would wait here for ever
            with lock:
                inside -= 1

    threads = [threading.Thread(target=upload, args=(f"silo-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (most, inside) == (2, 0)


def test_a_stalled_upload_makes_room_for_one_that_waits() -> None:
    now_s = 0.0
    slots = UploadSlots(2, 10.0, lambda: now_s)
    busy, still = Call(), Call()
    with slots.place("a", busy) as slot, slots.place("b", still):
        now_s = 9.0
        slots.progressed(slot, FULL_CREDIT_BYTES)
        now_s = 10.5
        late = Late(slots, "c")
        assert late.entered.wait(PATIENCE_S)
        assert (busy.cancelled, still.cancelled) == (False, True)
        late.end()


def test_a_byte_now_and_then_is_no_progress() -> None:
    now_s = 0.0
    slots = UploadSlots(1, 10.0, lambda: now_s)
    trickle = Call()
    with slots.place("a", trickle) as slot:
        for _ in range(11):
            now_s += 1.0
            slots.progressed(slot, 1)
        late = Late(slots, "b")
        assert late.entered.wait(PATIENCE_S)
        assert trickle.cancelled
        late.end()


def test_one_silo_never_takes_all_places() -> None:
    slots = UploadSlots(2, 60.0)
    with slots.place("greedy", Call()):
        second = Late(slots, "greedy")
        honest = Late(slots, "honest")
        assert honest.entered.wait(PATIENCE_S)  # though `second` waits longer
        assert not second.entered.is_set()
        honest.end()
    assert second.entered.wait(PATIENCE_S)
    second.end()


def test_whose_call_is_over_waits_no_longer() -> None:
    slots = UploadSlots(1, 60.0)
    with slots.place("a", Call()):
        gone, honest = Late(slots, "b"), Late(slots, "c")
        assert gone.call.asked.wait(PATIENCE_S)
        gone.call.end()
        gone.end()
        assert "its sender went away" in str(gone.error)
        assert not honest.entered.is_set()
    assert honest.entered.wait(PATIENCE_S)
    honest.end()
    with pytest.raises(Unavailable, match="went away"), slots.place("d", Call(over=True)):
        pass


def test_nobody_is_cancelled_while_nobody_waits() -> None:
    now_s = 0.0
    slots = UploadSlots(1, 1.0, lambda: now_s)
    first = Call()
    with slots.place("a", first):
        now_s = 100.0
    with slots.place("b", Call()):
        assert not first.cancelled
