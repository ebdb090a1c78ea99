"""The sealed update on disk: written whole before it is sent, so that a retry sends the same bytes.

    outbox/<job>/<round>/attachment   the seeds of all blocks, or the share mails: what travels before the residues
    outbox/<job>/<round>/residues     the residue chunks, one after another

The folder appears by one rename after everything in it was fsynced: an update is whole or absent. The signed header is
kept by the store.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from certs.files import private_folder, sync_folder, write_error
from privacy.ckks.layout import chunk_leaf, chunks_root
from privacy.ckks.layouts import UpdateLayout
from privacy.errors import InternalError

SEND_BYTES = 512 << 10


@dataclass(frozen=True)
class SealedDigests:
    """What a header says of a sealed update."""

    residues_root: bytes
    attachment_sha256: bytes


class Outbox:
    """The outbox folder of a silo. Raises ConfigError when it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        private_folder(folder)

    def write(
        self, job: bytes, round_number: int, parts: Iterable[tuple[bytes, bytes]], layout: UpdateLayout
    ) -> SealedDigests:
        """Store parts (residues, attachment; either may be empty), in order, as they are made. Memory holds one chunk.

        Raises ConfigError naming the folder when the disk is full or may not be written: nothing is left behind. An
        earlier update of the same round (of a process that died before it recorded it) is replaced.
        """
        final = self._path(job, round_number)
        temporary = final.with_name(f".{round_number}.{secrets.token_hex(8)}.tmp")
        private_folder(final.parent)
        try:
            try:
                temporary.mkdir(mode=0o700)
                digests = _write_parts(temporary, parts, layout)
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
                sync_folder(final.parent)
                sync_folder(self._folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        except OSError as error:
            raise write_error(final, error) from error
        return digests

    def attachment(self, job: bytes, round_number: int) -> Iterator[bytes]:
        """The stored seeds or share mails in parts to send."""
        yield from _parts(self._path(job, round_number) / "attachment", SEND_BYTES)

    def residues(self, job: bytes, round_number: int, layout: UpdateLayout) -> Iterator[bytes]:
        """The stored residue chunks, each whole."""
        with (self._path(job, round_number) / "residues").open("rb") as file:
            for index in range(layout.chunks):
                yield file.read(layout.chunk_bytes(index))

    def erase(self, job: bytes, round_number: int) -> None:
        """Delete the update of a round, and what an interrupted `write` left."""
        folder = self._folder / job.hex()
        if not folder.exists():
            return
        for path in [self._path(job, round_number), *folder.glob(f".{round_number}.*.tmp")]:
            shutil.rmtree(path, ignore_errors=True)
        sync_folder(folder)

    def forget(self, job: bytes) -> None:
        """Delete every update of a job."""
        shutil.rmtree(self._folder / job.hex(), ignore_errors=True)
        sync_folder(self._folder)

    def _path(self, job: bytes, round_number: int) -> Path:
        return self._folder / job.hex() / str(round_number)


def _write_parts(folder: Path, parts: Iterable[tuple[bytes, bytes]], layout: UpdateLayout) -> SealedDigests:
    leaves: list[bytes] = []
    attached_hash = hashlib.sha256()
    chunk = bytearray()
    with (folder / "attachment").open("xb") as attachment, (folder / "residues").open("xb") as residues:
        for sealed, attached in parts:
            attachment.write(attached)
            attached_hash.update(attached)
            chunk += sealed
            if len(leaves) < layout.chunks and len(chunk) == layout.chunk_bytes(len(leaves)):
                leaves.append(chunk_leaf(bytes(chunk)))
                residues.write(chunk)
                chunk.clear()
        if len(leaves) != layout.chunks or chunk:
            raise InternalError("sealing", "made another number of blocks than the plan has", "Report this.")
        for file in (attachment, residues):
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)
    return SealedDigests(chunks_root(leaves), attached_hash.digest())


def _parts(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(size):
            yield part
