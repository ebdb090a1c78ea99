"""The blob folder: starting adapters, staged updates, sums. Nothing in it opens anything.

<job>/artifact                     the job's starting adapter
<job>/<round>/<silo>-<header>.residues, and .seeds or .mails   an accepted update (start of its header's digest)
<job>/<round>/<digest>.release   an accepted sum of shares, sealed: body, then mails (start of its digest)
<job>/<round>/<token>.part         an update on its way; removed at the next start
<job>/<round>/sum-<attempt>        the committed sum
models/<job>.f32                   what a job that opens to the aggregator came to; kept when the job is forgotten
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from privacy.errors import CloisterError, ConfigError, Unavailable
from privacy.statement import Signed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Blobs:
    """Paths below one folder, and what is removed when."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """See that the folder is there."""
        with storing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def job(self, job: bytes) -> Path:
        """The job's folder."""
        return self.folder / job.hex()

    def artifact(self, job: bytes) -> Path:
        """The job's starting adapter."""
        return self.job(job) / "artifact"

    def round(self, job: bytes, number: int) -> Path:
        """The round's folder, made if need be."""
        folder = self.job(job) / str(number)
        with storing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def sum(self, job: bytes, number: int, attempt: int) -> Path:
        """The sum of a round's commit with this attempt's number."""
        return self.job(job) / str(number) / f"sum-{attempt}"

    def release(self, job: bytes, number: int, release: Signed) -> Path:
        """What a Release is of; its digest is in the name, so that none replaces another."""
        name = f"{hashlib.sha256(release.body).hexdigest()[:32]}.release"
        return self.round(job, number) / name

    def model(self, job: bytes) -> Path:
        """The job's last global adapter; its folder is made if need be."""
        folder = self.folder / "models"
        with storing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder / f"{job.hex()}.f32"

    def write(self, path: Path, data: bytes) -> None:
        """Store a blob, whole and durably."""
        part = path.with_name(f"{secrets.token_hex(8)}.part")
        try:
            with storing(path):
                with part.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(path)
                sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)

    def drop_spool(self, job: bytes, number: int, *, keep_sum: bool) -> None:
        """Remove a closed round's staged residues; with `keep_sum` what opens its sum stays: seeds, releases."""
        folder = self.job(job) / str(number)
        if not keep_sum:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for path in [*folder.glob("*.residues"), *folder.glob("*.mails"), *folder.glob("*.part")]:
            path.unlink(missing_ok=True)

    def drop_parts(self, job: bytes) -> None:
        """Remove what was on its way when the aggregator went down."""
        for path in self.job(job).glob("*/*.part"):
            path.unlink(missing_ok=True)

    def drop_except(self, folder: Path, accepted: set[Path]) -> None:
        """Remove every update of a round that is not among `accepted`."""
        for path in [*folder.glob("*.residues"), *folder.glob("*.seeds"), *folder.glob("*.mails")]:
            if path not in accepted:
                path.unlink(missing_ok=True)

    def drop_unknown(self, jobs: Collection[bytes]) -> None:
        """Remove starting adapters that came without their job being taken in."""
        known = {self.job(job) for job in jobs}
        for path in [*self.folder.glob("*.part"), *self.folder.glob("models/*.part")]:
            path.unlink(missing_ok=True)
        for artifact in self.folder.glob("*/artifact"):
            if artifact.parent not in known:
                artifact.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # something else is in it
                    artifact.parent.rmdir()

    def forget(self, job: bytes) -> None:
        """Remove everything of a job."""
        shutil.rmtree(self.job(job), ignore_errors=True)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Words a failed write below: a full disk is a state of the world that the sender may wait out."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> CloisterError:
    """What to tell about a write that failed."""
    if error.errno in _FULL:
        return Unavailable(
            "the aggregator's storage",
            f"is full ({path.parent.name}/{path.name})",
            "The coordinator must free space in the aggregator's blobs folder; the stored bytes can then be resent.",
        )
    reason = error.strerror or type(error).__name__
    return ConfigError(f"blob {path}", reason, "Give the aggregator's account the right to write in its blobs folder.")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
