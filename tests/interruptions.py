"""A command that is killed at a place in its code, as by a power cut: nothing after it is done, nothing cleaned up."""

from typing import Any

import pytest


class Killed(BaseException):
    """Nobody catches it."""


def die(*_: object) -> None:
    """In the place of what is not done any more."""
    raise Killed


def dies_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: int = 0) -> None:
    """Calls of this function of `owner` kill, once it was called so many times."""
    real, left = getattr(owner, name), [None] * after

    def at(*words: object) -> object:
        if not left:
            return die()
        left.pop()
        return real(*words)

    monkeypatch.setattr(owner, name, at)
