"""Files that must be there after a power cut, or not at all. `runtime.files` offers the same to the layers above."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from privacy.errors import CloisterError, ConfigError

PRIVATE = 0o600
PUBLIC = 0o644
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_durably(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace `path` by `data`: whole and on the disk when this returns, else the old content stands.

    A temporary file in the same folder is written, fsynced and renamed, then the folder is fsynced. Raises ConfigError
    naming the file when the disk is full, the folder is missing or it may not be written; nothing is left behind.
    """
    write_parts_durably(path, (data,), mode)


def write_parts_durably(path: Path, parts: Iterable[bytes], mode: int = PRIVATE) -> None:
    """`write_durably` of bytes that come in parts, one in memory at a time. What `parts` raises comes out as it is."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_new(temporary, parts, mode)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def _write_new(path: Path, parts: Iterable[bytes], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> CloisterError:
    """What to tell an operator about a write that failed."""
    what = f"writing {path}"
    if error.errno in _FULL:
        return ConfigError(what, "the disk is full", f"Free space under {path.parent} and run it again.")
    if isinstance(error, FileNotFoundError):
        return ConfigError(what, f"the folder {path.parent} does not exist", "Create it, or correct the path.")
    reason = error.strerror or type(error).__name__
    return ConfigError(what, reason, f"Give this account the right to write in {path.parent}.")


def private_folder(folder: Path) -> None:
    """Create `folder` with mode 0700 unless it is there. Raises ConfigError when that fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def read_file(path: Path, next_step: str, limit: int = 1 << 20) -> bytes:
    """The bytes of a small file. Raises ConfigError naming it, with `next_step`, when missing, unreadable or large."""
    return _read(path, next_step, limit)[0]


def read_private(path: Path, next_step: str) -> bytes:
    """The bytes of a key file. Raises ConfigError when it is missing or when anybody else may read it."""
    data, mode = _read(path, next_step, 1 << 20)
    if mode & 0o077:
        raise ConfigError(
            f"key file {path}",
            f"may be read by other accounts (mode {mode:04o})",
            f"Run `chmod 600 {path}`; if others had access to this machine, replace the key.",
        )
    return data


def _read(path: Path, next_step: str, limit: int) -> tuple[bytes, int]:
    """Bytes and mode of one and the same file, also when another takes its name meanwhile."""
    try:
        with path.open("rb") as file:
            data, mode = file.read(limit + 1), os.fstat(file.fileno()).st_mode & 0o777
    except OSError as error:
        raise ConfigError(str(path), error.strerror or type(error).__name__, next_step) from error
    if len(data) > limit:
        raise ConfigError(str(path), f"is larger than {limit} bytes", next_step)
    return data, mode


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock on `path` (created when missing), waiting for other processes."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
