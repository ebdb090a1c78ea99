"""Updates on disk, their sum in memory: what comes is staged and checked chunk by chunk, then added.

Memory is one sum, whatever the number of silos: updates pass through in chunks. The sum in memory is never the truth:
`bring_to` makes it the sum over exactly the accepted updates, so a restart rebuilds it and adds nothing twice.
"""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aggregator.attachments import attachment_bytes, attachment_name, require_attachment
from aggregator.blobs import storing, sync_folder
from privacy.ckks.layout import chunk_leaf, chunks_root
from privacy.ckks.layouts import UpdateLayout, layout_of
from privacy.envelope import AnyHeader, header_digest
from privacy.errors import InternalError, ProtocolError
from privacy.plan import JobPlan
from privacy.statement import Signed


@dataclass(frozen=True)
class StagedUpdate:
    """An update on disk that is what its header says."""

    silo: str
    header: Signed
    statement: AnyHeader  # what it says
    residues: Path
    attachment: Path
    bytes_received: int
    check_ns: int


def update_paths(folder: Path, silo: str, header: Signed, plan: JobPlan) -> tuple[Path, Path]:
    """Where residues and attachment lie; the header's digest is in the name, so that none replaces another."""
    stem = f"{silo}-{header_digest(header).hex()[:16]}"
    return folder / f"{stem}.residues", folder / f"{stem}.{'mails' if plan.suite.keyed else 'seeds'}"


class Upload:
    """One update on its way to disk. Close it (`with`): what was not finished is removed.

    `add_attached` and `add_residues` take what came, in order; `finish` checks the whole against the header. All raise
    ProtocolError naming the silo and what is wrong, and Unavailable when the disk is full.
    """

    def __init__(self, folder: Path, plan: JobPlan, participants: int, header: AnyHeader, signed: Signed) -> None:
        self._folder = folder
        self.header = header
        self._signed = signed
        self._plan = plan
        self._layout = layout_of(plan)
        self._room = self._layout.room()
        self._leaves: list[bytes] = []
        self._attached = attachment_name(header)
        self._attachment_bytes = attachment_bytes(self._layout, participants)
        self._attached_bytes = 0
        self._residue_bytes = 0
        self._check_ns = 0
        token = secrets.token_hex(8)
        self._parts = (folder / f"{token}.residues.part", folder / f"{token}.{self._attached}.part")
        self._files: tuple[BinaryIO, BinaryIO] | None = None

    def __enter__(self) -> "Upload":
        """Open the files."""
        with storing(self._parts[0]):
            self._files = (self._parts[0].open("wb"), self._parts[1].open("wb"))
        return self

    def __exit__(self, *_: object) -> None:
        """Close them and remove what was not finished."""
        for file in self._files or ():
            try:
                file.close()
            except OSError:  # a full disk again, on the last buffered bytes; the part goes anyway
                continue
        for part in self._parts:
            part.unlink(missing_ok=True)

    def add_attached(self, kind: str, part: bytes) -> None:
        """The next bytes of the attachment, which this is (`attachment_name`); it comes before the residues."""
        if kind != self._attached:
            raise self._wrong(kind, f"came, and an update of this suite has {self._attached}")
        if self._leaves:
            raise self._wrong(kind, "came after residues")
        self._attached_bytes += len(part)
        if self._attached_bytes > self._attachment_bytes:
            raise self._wrong(kind, f"are oversized: more than {self._attachment_bytes} bytes")
        self._write(1, part)

    def add_residues(self, chunk: bytes) -> None:
        """The next residue chunk, whole."""
        self._check_attachment()
        start = time.thread_time_ns()
        self._layout.check(chunk, len(self._leaves), sender=self.header.silo, into=self._room)
        self._leaves.append(chunk_leaf(chunk))
        self._check_ns += time.thread_time_ns() - start
        self._residue_bytes += len(chunk)
        self._write(0, chunk)

    def finish(self) -> StagedUpdate:
        """The update, whole, on the disk and as its header says; it is not accepted yet."""
        self._check_attachment()
        if len(self._leaves) != self._layout.chunks:
            why = f"is truncated: {len(self._leaves)} of {self._layout.chunks} residue chunks came"
            raise self._wrong("update", why)
        if chunks_root(self._leaves).hex() != self.header.residues_root:
            why = "residue chunks are not those of the signed header (residues_root): altered, or out of order"
            raise self._wrong("update", why)
        paths = update_paths(self._folder, self.header.silo, self._signed, self._plan)
        with storing(paths[0]):
            for file, part, path in zip(self._files or (), self._parts, paths, strict=True):
                file.flush()
                os.fsync(file.fileno())
                part.rename(path)
            sync_folder(self._folder)
        received = self._attached_bytes + self._residue_bytes + len(self._signed.body) + len(self._signed.signature)
        return StagedUpdate(self.header.silo, self._signed, self.header, *paths, received, self._check_ns)

    def _check_attachment(self) -> None:
        if self._leaves:
            return
        expected, came = self._attachment_bytes, self._attached_bytes
        if came != expected:
            raise self._wrong(self._attached, f"are truncated: {came} of {expected} bytes came")
        if self._files is not None:
            self._files[1].flush()
        with self._parts[1].open("rb") as file:
            require_attachment(self.header, self._layout, file)

    def _write(self, which: int, data: bytes) -> None:
        if self._files is None:
            raise InternalError("upload", "was not opened", "Report this.")
        with storing(self._parts[which]):
            self._files[which].write(data)

    def _wrong(self, what: str, why: str) -> ProtocolError:
        return ProtocolError(
            what, why, "It was not accepted and what had come was removed; resend the stored bytes whole.",
            sender=self.header.silo, step="submit",
        )  # fmt: skip


class RunningSum:
    """The sum of a round's updates. Safe to use from several threads; adding is one at a time."""

    def __init__(self, layout: UpdateLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._total: npt.NDArray[np.unsignedinteger[Any]] | None = None
        self._included: dict[str, Path] = {}
        self.spent_ns = 0

    def add(self, update: StagedUpdate) -> None:
        """Add ahead of time an update that will probably be accepted; `bring_to` corrects it if not."""
        with self._lock:
            self.spent_ns += update.check_ns
            if update.silo in self._included:
                return
            with contextlib.suppress(FileNotFoundError):  # the round was closed meanwhile and its spool removed
                self._apply(update.silo, update.residues)

    def commit(self, updates: Mapping[str, Path], path: Path) -> bytes:
        """Write the sum over exactly these updates to `path`, durably; returns its RFC 6962 root."""
        with self._lock:
            self._bring_to(updates)
            return self._write(path)

    def _bring_to(self, updates: Mapping[str, Path]) -> None:
        if any(updates.get(silo) != path for silo, path in self._included.items()):
            self._total, self._included = None, {}  # something that was not accepted is in: sum up afresh
        for silo, path in updates.items():
            if silo not in self._included:
                try:
                    self._apply(silo, path)
                except FileNotFoundError as error:
                    why = "was accepted and is missing in the blobs folder"
                    raise InternalError(f"update of {silo}", why, "Restore the blobs folder from a backup.") from error

    def _apply(self, silo: str, path: Path) -> None:
        start = time.thread_time_ns()
        if self._total is None:
            self._total = self._layout.empty_sum()
        try:
            room = self._layout.room()
            for index, chunk in enumerate(passing_chunks(path, self._layout.chunk_bytes(0))):
                self._layout.add(self._total, index, self._layout.check(chunk, index, sender=silo, into=room))
        except BaseException:
            self._total, self._included = None, {}  # half an update is in: sum up afresh next time
            raise
        self._included[silo] = path
        self.spent_ns += time.thread_time_ns() - start

    def _write(self, path: Path) -> bytes:
        if self._total is None:
            raise InternalError("sum", "has no summands", "Report this.")
        start = time.thread_time_ns()
        part = path.with_suffix(".part")
        leaves = []
        try:
            with storing(path):
                with part.open("wb") as file:
                    for index in range(self._layout.chunks):
                        chunk = self._layout.encode(self._total, index)
                        leaves.append(chunk_leaf(chunk))
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(path)
                sync_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self.spent_ns += time.thread_time_ns() - start
        return chunks_root(leaves)


def read_chunks(path: Path, size: int) -> Iterator[bytes]:
    """A blob's bytes in chunks of `size`, the last shorter. Raises FileNotFoundError if it is gone."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(size):
            yield chunk
            del chunk  # held by nobody while the reader waits


def passing_chunks(path: Path, size: int) -> Iterator[memoryview]:
    """As `read_chunks`, each in the place of the one before."""
    room = memoryview(bytearray(size))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(room):
            yield room[:read]
