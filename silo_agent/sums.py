"""The committed sum on this silo's disk: fetched, compared with the signed commit and headers, then opened from there.

    artifacts/<job>/sum-<round>/residues   the sum's residue chunks
    artifacts/<job>/sum-<round>/seeds-<n>  with ckks-group: the seeds of the n-th member, in the commit's order

Nothing of a sum reaches SEAL before every byte of it has been compared with what the transcript names. The folder
appears by one rename after everything in it was fsynced. What this machine's disk lost all the same is fetched again:
only a sum that was fetched just now can speak against the aggregator.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from cloister import wire

from certs.files import write_error
from privacy.ckks.fingerprint import root_and_fingerprint
from privacy.ckks.layout import Layout
from privacy.ckks.layouts import layout_of
from privacy.envelope import UpdateHeader
from privacy.errors import CloisterError, ProtocolError, VerificationError
from privacy.plan import JobPlan
from privacy.transcript import CheckedTranscript, require_sum
from runtime.files import private_folder, sync_folder

LOG = structlog.get_logger("silo.round")


class Rejected(ProtocolError):  # noqa: N818 - a verdict
    """What the aggregator showed does not hold, by this silo's own checks. An error that it answers with is none."""

    @classmethod
    def of(cls, error: CloisterError) -> "Rejected":
        """From what a check raised."""
        return cls(error.what, error.why, error.next_step, sender=getattr(error, "sender", ""))


@contextmanager
def judged() -> Iterator[None]:
    """What a check in this block raises about the aggregator's evidence comes out as Rejected."""
    try:
        yield
    except (ProtocolError, VerificationError) as error:
        raise Rejected.of(error) from error


class FetchedSum:
    """One round's sum in one folder."""

    def __init__(self, folder: Path, plan: JobPlan) -> None:
        self._folder = folder
        self._plan = plan
        self._layout = layout_of(plan)
        self._seed_bytes = self._layout.seed_bytes if isinstance(self._layout, Layout) else 0

    @property
    def here(self) -> bool:
        """Whether a whole sum was fetched."""
        return self._folder.exists()

    def bring(self, checked: CheckedTranscript, fetch: Callable[[], Iterable[wire.SumPart]]) -> None:
        """Step 5: the sum of this commit is on disk, compared to the last byte; `fetch` gets it from the aggregator.

        Raises Rejected when what came just now is another sum, ConfigError when this machine's disk fails, and what
        `fetch` raises: neither of these two speaks against the aggregator.
        """
        if self.here and self._holds(checked):
            return
        self.fetch(fetch(), checked.commit.members)
        try:
            self.check(checked)
        except OSError as error:
            raise write_error(self._folder, error) from error

    def _holds(self, checked: CheckedTranscript) -> bool:
        """Whether what was fetched earlier is whole. What is not is removed."""
        try:
            self.check(checked)
        except (Rejected, OSError) as error:
            LOG.warning("a fetched sum is not whole on disk, or of another commit: fetched again", why=str(error))
            self.erase()
            return False
        return True

    def fetch(self, parts: Iterable[wire.SumPart], members: tuple[str, ...]) -> None:
        """Store, durably, what the aggregator sends: each member's seeds in the commit's order, then the residues.

        Raises Rejected on anything out of order or too long, ConfigError when the disk is full; nothing is kept.
        """
        draft = self._folder.with_name(f"{self._folder.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        private_folder(draft)
        try:
            self._receive(draft, parts, members)
            for path in draft.iterdir():
                _sync_file(path)
            sync_folder(draft)
            shutil.rmtree(self._folder, ignore_errors=True)
            draft.rename(self._folder)
            sync_folder(self._folder.parent)
        except OSError as error:
            raise write_error(self._folder, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _receive(self, folder: Path, parts: Iterable[wire.SumPart], members: tuple[str, ...]) -> None:
        received = dict.fromkeys(members, 0)
        waiting = list(members)
        total = 0
        with (folder / "residues").open("xb") as residues:
            for part in parts:
                if part.seeds is not None:
                    name, data = part.seeds.silo, part.seeds.part
                    while waiting and received[waiting[0]] == self._seed_bytes:
                        waiting.pop(0)
                    if total or not waiting or waiting[0] != name:
                        raise _wrong(f"seeds of {name[:63]!r} came out of order")
                    received[name] += len(data)
                    if received[name] > self._seed_bytes:
                        raise _wrong(f"has more seeds of {name} than an update")
                    with _seeds(folder, members.index(name)).open("ab") as seeds:
                        seeds.write(data)
                elif part.residues is not None:
                    total += len(part.residues)
                    if total > self._layout.residue_bytes:
                        raise _wrong("is longer than an update")
                    residues.write(part.residues)
        if total != self._layout.residue_bytes or any(n != self._seed_bytes for n in received.values()):
            raise _wrong("is shorter than the job's updates")

    def check(self, checked: CheckedTranscript) -> None:
        """Step 5: H(C) is the commit's, its fingerprint is the sum of the members', and every member's seeds are those
        of its header. Raises Rejected, OSError.
        """
        commit = checked.commit
        try:
            root, value = root_and_fingerprint(self._layout, commit.digest, self.chunks())
            if root.hex() != commit.commit.sum_root:
                raise _wrong("is not the one that was committed to: H(C) differs")
            require_sum(self._plan, checked, value)
        except ProtocolError as error:
            raise Rejected.of(error) from error
        for index, header in enumerate(commit.headers):
            if isinstance(header, UpdateHeader):
                self._check_seeds(index, header)

    def _check_seeds(self, index: int, header: UpdateHeader) -> None:
        with _seeds(self._folder, index).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != header.seeds_sha256:
            raise _wrong(f"comes with other seeds of {header.silo} than its header says")

    def chunks(self) -> Iterator[bytes]:
        """The residue chunks in order."""
        with (self._folder / "residues").open("rb") as file:
            for index in range(self._layout.chunks):
                yield file.read(self._layout.chunk_bytes(index))

    def seeds(self, members: int) -> list[bytes]:
        """Each member's seeds, in the commit's order."""
        return [_seeds(self._folder, index).read_bytes() for index in range(members)]

    def erase(self) -> None:
        """Delete it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seeds(folder: Path, index: int) -> Path:
    return folder / f"seeds-{index}"


def _wrong(why: str) -> Rejected:
    return Rejected(
        "the sum", why, "It was not opened, and no consent was given; keep the log as evidence.", sender="aggregator"
    )
