"""Python's collector of cycles, kept from looking at a long log's books over and over while they grow."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 100_000  # objects that are new since the last look, before the next


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Meanwhile new objects are looked at in large lots, and those that stay are not looked at again."""
    usual = gc.get_threshold()
    gc.set_threshold(_YOUNG, usual[1], 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
