"""What the daemon says about itself on this machine: status.json, always whole, and timings.jsonl. Never sent."""

import contextlib
import json
import os
import resource
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from certs.times import utc_text
from privacy.budget import BudgetState
from runtime.files import StateLock

LOG = structlog.get_logger("silo.status")
STATUS = "status.json"
TIMINGS = "timings.jsonl"


@dataclass(frozen=True)
class Status:
    """The daemon at a glance. One job is shown: the one that moved last."""

    name: str
    connected: bool = False
    job: str = ""
    job_name: str = ""
    job_phase: str = ""
    round: int = 0
    rounds: int = 0
    phase: str = ""
    step: int = 0
    steps: int = 0
    population: str = ""
    epsilon_spent: float = 0.0
    epsilon_cap: float = 0.0
    epsilon_left: float = 0.0
    bytes_sent: int = 0
    message: str = ""
    updated_utc: str = ""


class StatusBoard:
    """status.json of one daemon; safe to use from several threads."""

    def __init__(self, folder: Path, name: str, clock: Callable[[], datetime]) -> None:
        self._path = folder / STATUS
        self._clock = clock
        self._lock = threading.Lock()
        self._status = Status(name)

    @property
    def status(self) -> Status:
        """What was last shown."""
        return self._status

    def show(self, **changes: Any) -> None:  # noqa: ANN401 - Status' own fields
        """Change some fields and replace the file. A full disk is no reason to stop: the file then stays as it was."""
        with self._lock:
            self._show(**changes)

    def add_sent(self, count: int) -> None:
        """Count bytes of sealed updates that the aggregator confirmed."""
        with self._lock:
            self._show(bytes_sent=self._status.bytes_sent + count)

    def of_job(self, job: bytes) -> "JobBoard":
        """What one job shows."""
        return JobBoard(self, job)

    def _show(self, **changes: Any) -> None:  # noqa: ANN401 - Status' own fields
        self._status = replace(self._status, **changes, updated_utc=utc_text(self._clock()))
        with contextlib.suppress(OSError):
            _replace(self._path, json.dumps(asdict(self._status)).encode())


class JobBoard:
    """One job's part of status.json, for its own thread: it is shown whole, so that nothing of another job's stays."""

    def __init__(self, board: StatusBoard, job: bytes) -> None:
        self._board = board
        fresh = {"job_name": "", "job_phase": "", "round": 0, "rounds": 0, "phase": "", "step": 0, "steps": 0}
        budget = {"population": "", "epsilon_spent": 0.0, "epsilon_cap": 0.0, "epsilon_left": 0.0}
        self._facts: dict[str, Any] = {"job": job.hex(), **fresh, **budget, "message": ""}

    def show(self, **changes: Any) -> None:  # noqa: ANN401 - Status' own fields
        """Change some fields, and show all that this job says."""
        self._facts |= changes
        self._board.show(**self._facts)

    def add_sent(self, count: int) -> None:
        """See StatusBoard."""
        self._board.add_sent(count)


def read_status(folder: Path) -> dict[str, Any]:
    """What a daemon last said about itself, and whether it runs: one that was killed is not connected.

    Where none ever ran, it has no name, and that is the message.
    """
    try:
        said = dict(json.loads((folder / STATUS).read_bytes()))
    except FileNotFoundError:
        said = asdict(Status("", message="no daemon has run here yet: cloister silo run"))
    running = StateLock.held(folder)
    return {**said, "running": running, "connected": said["connected"] and running}


@dataclass
class Timing:
    """How long this silo took for one round (`_ns`: processor time, `_s`: wall clock), and the daemon's peak memory."""

    job: str
    round: int
    values: int
    train_s: float = 0.0
    quantise_ns: int = 0
    pad_ns: int = 0  # of seal_ns' work, what was done beside training
    seal_ns: int = 0
    submit_s: float = 0.0
    open_ns: int = 0
    round_s: float = 0.0

    def append_to(self, folder: Path) -> None:
        """Add one line to timings.jsonl, mode 0600. A disk that does not take it is no reason to stop."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        line = json.dumps({**asdict(self), "peak_rss_mb": round(peak, 1)}) + "\n"
        try:
            descriptor = os.open(folder / TIMINGS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as sink:
                sink.write(line.encode())
        except OSError as error:
            LOG.warning("timing not kept", round=self.round, why=error.strerror)


def _replace(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one. Not fsynced: nothing depends on it after a power cut."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def budget_facts(budget: BudgetState) -> dict[str, object]:
    """What a status says of the budget of the job's population."""
    return {
        "population": budget.policy.population,
        "epsilon_spent": budget.spent_epsilon,
        "epsilon_cap": budget.policy.epsilon,
        "epsilon_left": budget.left_epsilon,
    }
