"""Secrets of running jobs: the silo's mail key and the cohort's key, one folder a job, erased when the job closes.

One-time keys' secrets lie in a folder a round in it, and are erased one by one as soon as nothing needs them.

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
    # of one round each, with one-time keys:
    SHARE_KEY = "share.key"  # opens the share mails to this silo
    OPEN_KEY = "open.key"  # opens what the others released
    SHARES = "shares.sum"  # the transcript it consents to, and the sum of this silo's shares for it
    RELEASE = "release"  # what it released, sealed; to be re-sent byte for byte


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

    def put(self, job: bytes, secret: Secret, value: bytes, *, round_number: int = 0, replace: bool = False) -> None:
        """Store a secret durably. Storing the same again is fine; raises InternalError for another value.

        `replace` is for what nobody was told of yet.
        """
        path = self._path(job, secret, round_number)
        if path.exists() and not replace:
            if read_private(path, _LOST) != value:
                raise InternalError(f"vault, {secret}", "this job already has another one", "Report this.")
            return
        for folder in dict.fromkeys((self._folder / job.hex(), path.parent)):
            private_folder(folder)
            sync_folder(folder.parent)
        write_durably(path, value)

    def has(self, job: bytes, secret: Secret, round_number: int = 0) -> bool:
        """Whether the secret was stored."""
        return self._path(job, secret, round_number).exists()

    def get(self, job: bytes, secret: Secret, round_number: int = 0) -> bytes:
        """The secret. Raises ConfigError when it is missing or others may read it."""
        return read_private(self._path(job, secret, round_number), _LOST)

    def erase_one(self, job: bytes, secret: Secret, round_number: int) -> None:
        """Delete one secret of a round, if it is there."""
        path = self._path(job, secret, round_number)
        if path.exists():
            path.unlink()
            sync_folder(path.parent)

    def erase_round(self, job: bytes, round_number: int) -> None:
        """Delete all secrets of a round."""
        folder = self._path(job, Secret.SHARE_KEY, round_number).parent
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            sync_folder(folder.parent)

    def erase(self, job: bytes) -> None:
        """Delete all secrets of a job. What the storage device keeps of deleted blocks is the operator's to erase."""
        shutil.rmtree(self._folder / job.hex(), ignore_errors=True)
        sync_folder(self._folder)

    def _path(self, job: bytes, secret: Secret, round_number: int) -> Path:
        folder = self._folder / job.hex()
        return (folder / str(round_number) if round_number else folder) / secret.value
