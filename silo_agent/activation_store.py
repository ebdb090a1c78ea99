"""Activations that are too large for memory: files in the state folder that training maps, row by row as it needs them.

A file is named by a digest of everything it hangs on (weights, layer, tokens), so it is made once for a dataset and a
model, found again after a restart and by the next job, and never mistaken for another. The files are as private as the
records they are made from: readable by this user alone, never sent, and gone when others need the room.
"""

import logging
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from runtime.files import private_folder

LOG = logging.getLogger(__name__)
ITEM_BYTES = 4  # float32
SUFFIX, DRAFT = ".f32", ".draft"


@dataclass(frozen=True)
class ActivationStore:
    """A folder that never takes more than `limit_bytes`; 0: nothing is ever put there."""

    folder: Path
    limit_bytes: int

    def mapped(self, key: str, shape: tuple[int, ...], record: Callable[[torch.Tensor], None]) -> torch.Tensor | None:
        """The tensor of this key, float32, mapped: `record` fills it the first time; it is kept whole or not at all.

        The oldest others make room. None where it does not fit the limit or the disk. Writing to what is returned
        changes no file.
        """
        size = ITEM_BYTES * math.prod(shape)
        if not 0 < size <= self.limit_bytes:
            return None
        private_folder(self.folder)
        path = self.folder / f"{key}{SUFFIX}"
        if not path.exists() or path.stat().st_size != size:
            path.unlink(missing_ok=True)
            self._make_room(size)
            if not self._made(path, shape, size, record):
                return None
        os.utime(path)
        return _map(path, shape, shared=False)

    def _made(self, path: Path, shape: tuple[int, ...], size: int, record: Callable[[torch.Tensor], None]) -> bool:
        draft = path.with_name(f".{secrets.token_hex(8)}{DRAFT}")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # a full disk is an error here, and would be a crash once mapped
            record(_map(draft, shape, shared=True))
            os.fsync(descriptor)
            draft.rename(path)
        except OSError as error:
            LOG.warning("activations do not fit on the disk", extra={"bytes": size, "error": type(error).__name__})
            return False
        finally:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
        return True

    def _make_room(self, size: int) -> None:
        """Remove drafts that a crash left, then the files that were used longest ago, until `size` more fits."""
        for draft in self.folder.glob(f".*{DRAFT}"):
            draft.unlink(missing_ok=True)
        files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.folder.glob(f"*{SUFFIX}"))
        taken = sum(each for _, each, _ in files)
        for _, each, path in files:
            if taken + size <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)  # who has it mapped keeps it
            taken -= each


def _map(path: Path, shape: tuple[int, ...], *, shared: bool) -> torch.Tensor:
    return torch.from_file(str(path), shared=shared, size=math.prod(shape), dtype=torch.float32).view(shape)
