"""Durable files, and the lock that keeps two programs from one state folder."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from certs.files import (
    private_folder,
    read_file,
    read_private,
    sync_folder,
    write_durably,
    write_error,
    write_parts_durably,
)
from privacy.errors import ConfigError

__all__ = [
    "StateLock",
    "private_folder",
    "read_file",
    "read_private",
    "sync_folder",
    "write_durably",
    "write_error",
    "write_parts_durably",
]


LOCK = "lock"
PROBE_S = 0.01  # `StateLock.held` has the lock for less than this


class StateLock:
    """Held by the one program that uses a state folder; the kernel lets go of it when that program ends, however.

    A context manager. Raises ConfigError naming the other's process id when the folder is in use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    @staticmethod
    def held(folder: Path) -> bool:
        """Whether a program uses the folder now. Raises ConfigError when its lock file cannot be opened."""
        path = folder / LOCK
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def __enter__(self) -> Self:
        """Take the lock, or raise at once."""
        private_folder(self._folder)
        path = self._folder / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"state folder {self._folder}",
                f"is in use by process {holder}",
                "Stop that process, or give this one its own state folder.",
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    """Take the lock. Raises BlockingIOError when a program holds it, but not while one asks whether it is held."""
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PROBE_S)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
