"""Secrets of running jobs: the silo's mail key and the cohort's key, one folder a job, erased when the job closes.

Folders are 0700, files 0600; nothing here has a useful repr and nothing of it is logged. A key is stored once: a
second, different one for a job is refused, so that a silo never acts on two deals.
"""

import shutil
import stat
from enum import StrEnum
from pathlib import Path

from certs.files import private_folder, read_private, sync_folder, write_durably
from privacy.errors import ConfigError, InternalError

_LOST = "The job cannot go on at this silo: refuse it, and ask the coordinator to submit it again."


class Secret(StrEnum):
    """What the vault keeps for a job."""

    MAIL_KEY = "mail.key"
    COHORT_KEY = "cohort.key"
    DEALT_MAILS = "dealt.mails"  # what a dealer sends; sealed, so no secret, but to be re-sent byte for byte


class Vault:
    """The vault folder of a silo. Raises ConfigError when others may enter it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        private_folder(folder)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"vault {folder}",
                f"may be entered by other accounts (mode {mode:04o})",
                f"Run `chmod 700 {folder}`; if others had access to this machine, refuse the running jobs.",
            )

    def put(self, job: bytes, secret: Secret, value: bytes, *, replace: bool = False) -> None:
        """Store a secret durably. Storing the same again is fine; raises InternalError for another value.

        `replace` is for what nobody was told of yet.
        """
        path = self._path(job, secret)
        if path.exists() and not replace:
            if read_private(path, _LOST) != value:
                raise InternalError(f"vault, {secret}", "this job already has another one", "Report this.")
            return
        private_folder(path.parent)
        sync_folder(self._folder)
        write_durably(path, value)

    def has(self, job: bytes, secret: Secret) -> bool:
        """Whether the secret was stored."""
        return self._path(job, secret).exists()

    def get(self, job: bytes, secret: Secret) -> bytes:
        """The secret. Raises ConfigError when it is missing or others may read it."""
        return read_private(self._path(job, secret), _LOST)

    def erase(self, job: bytes) -> None:
        """Delete all secrets of a job. What the storage device keeps of deleted blocks is the operator's to erase."""
        shutil.rmtree(self._folder / job.hex(), ignore_errors=True)
        sync_folder(self._folder)

    def _path(self, job: bytes, secret: Secret) -> Path:
        return self._folder / job.hex() / secret.value
