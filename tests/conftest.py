"""For all tests: one thread a process, before torch is imported. Sums are then the same in every run, and two cores
are shared fairly by the programs that tests start."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import structlog

_processors = structlog.get_config()["processors"]
_plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*_processors[:-1], _plain])


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that was run in this process set them up for an output that is closed by the next test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
