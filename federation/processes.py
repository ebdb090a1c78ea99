"""Daemons on this machine: started in processes of their own, waited for, stopped.

They are `cloister`'s public commands. One that fails is quoted by the last lines of its log.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import psutil

from federation.commands import failure
from privacy.errors import ConfigError, ExitCode, Unavailable

COMMAND = (sys.executable, "-m", "federation.cli")
QUOTED_LINES = 12
POLL_S = 0.05
STOP_S = 15.0


def environment(**extra: str) -> dict[str, str]:
    """This process' environment for a child: one thread a program, since several share the cores; no colours."""
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **quiet, **extra}


class Daemon:
    """A program that runs until it is stopped, with its log in a file."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        self._arguments = tuple(arguments)
        self._environment = environment(**(extra or {}))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. Its output is appended to the log. In a session of its own: Ctrl-C reaches only its parent."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self._process = self._spawn(sink)

    def _spawn(self, sink: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            [*COMMAND, *self._arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process' id. Raises what `check` raises if it does not run."""
        self.check()
        assert self._process is not None  # noqa: S101 - check() raised otherwise
        return self._process.pid

    @property
    def rss_mb(self) -> float:
        """Resident memory now, MB (10^6 bytes)."""
        try:
            return float(psutil.Process(self.pid).memory_info().rss) / 1e6
        except psutil.NoSuchProcess:
            return 0.0

    @property
    def peak_rss_mb(self) -> float:
        """The kernel's high-water mark of resident memory (VmHWM), MB; where there is none, what it is now."""
        status = Path(f"/proc/{self.pid}/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        return self.rss_mb

    def check(self) -> None:
        """Raises, quoting the end of the log, if the program ended though nobody stopped it: of its exit code's family.

        See `federation.commands.failure`; Unavailable before it was started.
        """
        if not self.running:
            code = self._process.returncode if self._process else ExitCode.UNAVAILABLE
            how = f"ended with exit code {code}" if self._process else "was not started"
            why = f"{how}; the last lines of {self.log}:\n{self.last_lines()}\n"
            raise failure(code, self.name, why, "Mend what it names and start again.")

    def last_lines(self, count: int = QUOTED_LINES) -> str:
        """The end of the log."""
        if not self.log.exists():
            return "(it wrote nothing)"
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-count:]) or "(it wrote nothing)"

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting. Does nothing to a program that ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)  # looks first whether it still runs

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ask it to end, and kill it if it does not within the time. Does nothing to a program that ended."""
        if self._process is None or not self.running:
            return
        self.ask_to_end()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def stop_by(self, deadline: float) -> None:
        """`stop`, with the time until `deadline` (of time.monotonic())."""
        self.stop(max(0.1, deadline - time.monotonic()))

    def kill(self) -> None:
        """SIGKILL: as a power cut would."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()


def stop_all(daemons: Sequence[Daemon]) -> None:
    """Stop several at once: all are asked first, then waited for. What one raises keeps none of the others running."""
    deadline = time.monotonic() + STOP_S
    with ExitStack() as last_first:
        for daemon in reversed(daemons):
            last_first.callback(daemon.stop_by, deadline)
        for daemon in reversed(daemons):
            last_first.callback(daemon.ask_to_end)


def wait_until(
    ready: Callable[[], bool],
    *,
    what: str,
    timeout_s: float,
    daemons: Sequence[Daemon],
    tick: Callable[[], None] | None = None,
) -> None:
    """Wait until `ready()` holds, calling `tick()` between looks.

    Raises what `Daemon.check` raises when one of `daemons` ends, at once; Unavailable after `timeout_s`, quoting all.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        for daemon in daemons:
            daemon.check()
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {daemon.name} ({daemon.log})\n{daemon.last_lines(5)}" for daemon in daemons)
            raise Unavailable(what, f"did not happen within {timeout_s:.0f} s\n{logs}\n", "Read the logs named above.")
        if tick is not None:
            tick()
        time.sleep(POLL_S)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_command() -> None:
    """Raises ConfigError unless this Python has what `aggregator run` and `silo run` need."""
    from importlib.util import find_spec

    missing = [name for name in ("grpc", "sqlalchemy", "psutil", "tenseal", "torch") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "this installation",
            f"lacks {', '.join(missing)}",
            "Install the rest in the clone: pip install -c constraints.txt '.[demo]'.",
        )
