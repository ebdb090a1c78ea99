"""Step 8: the next global adapter, the same bytes at every silo, and where adapters lie.

What a server optimiser keeps lies beside them. It follows from the same sums, so silos whose adapters agree have the
same; its file is bound to its adapter's digest, and is refused if the disk changed it.

artifacts/<job>/initial.safetensors   the starting adapter's file, whose digest the plan pins
artifacts/<job>/adapter-<round>.f32   the global adapter after a round: little-endian float32, flattening order
artifacts/<job>/moments-<round>.f32   with an adaptive server optimiser: a digest, then m and v as the adapter
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cloister.wire import MAX_CHUNK_BYTES

from privacy.canonical import DIGEST_BYTES, digest
from privacy.errors import VerificationError
from privacy.flatten import adapter_digest, coordinate_ranges
from privacy.plan import JobPlan, MeanServer
from privacy.quantise import mean_from_sum
from privacy.server import Moments, first_moments, server_step
from privacy.tasks import ModelTask
from runtime.files import write_durably, write_parts_durably
from silo_agent.sums import Rejected

Float32 = npt.NDArray[np.float32]
MOMENTS_LABEL = "cloister/v1/moments"
SENDER = "aggregator"
INITIAL = "initial.safetensors"
MAX_ARTIFACT_BYTES = 2 << 30
FROZEN_SHARE = 64  # the file also holds LoRA's frozen A and a normaliser, which plans do not list: at most so many
ARTIFACT_SLACK = 16 << 20  # times what is trained, and this much besides


class AdapterShelf:
    """A job's adapters on disk, each checked against its digest when it is read."""

    def __init__(self, folder: Path, plan: JobPlan) -> None:
        self._folder = folder
        self._plan = plan

    @property
    def artifact_path(self) -> Path:
        """Where the starting adapter's file lies once it was fetched."""
        return self._folder / INITIAL

    def keep_artifact(self, parts: Iterable[bytes]) -> None:
        """Store the starting adapter's file as it comes, never whole in memory.

        Raises Rejected unless it is the one the plan pins; no more is taken than a plan of this size can need.
        """
        task = self._plan.task
        if not isinstance(task, ModelTask):
            return
        for leftover in self._folder.glob(f".{INITIAL}.*.tmp"):
            leftover.unlink(missing_ok=True)
        checked = _checked(parts, bytes.fromhex(task.adapter.initial_sha256), _most_bytes(self._plan))
        write_parts_durably(self.artifact_path, checked)

    def load(self, round_number: int, digest: bytes) -> Float32:
        """The global adapter after a round (0: the starting one). Raises VerificationError if it is another."""
        vector = self._initial() if round_number == 0 else self._stored(round_number)
        if vector.shape != (self._plan.values,) or adapter_digest(vector) != digest:
            raise VerificationError(
                f"global adapter after round {round_number}",
                "the file on disk is not the one whose digest was recorded",
                "Restore the state folder from a backup; the job cannot go on with this one.",
            )
        return vector

    def store(self, round_number: int, vector: Float32) -> bytes:
        """Store the adapter after a round durably; returns its digest."""
        write_durably(self._path(round_number), vector.astype("<f4", copy=False).tobytes())
        return adapter_digest(vector)

    def load_moments(self, round_number: int, adapter: bytes) -> Moments | None:
        """What the server optimiser kept after a round (0: at the start). Raises VerificationError if it changed."""
        if round_number == 0 or isinstance(self._plan.server, MeanServer):
            return first_moments(self._plan.server, self._plan.values)
        try:
            data = self._moments_path(round_number).read_bytes()
        except FileNotFoundError:
            data = b""
        stored, kept = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if len(kept) != 8 * self._plan.values or digest(MOMENTS_LABEL, adapter, kept) != stored:
            raise VerificationError(
                f"moments after round {round_number}",
                "the file on disk is not what belongs to the recorded adapter",
                "Restore the state folder from a backup; the job cannot go on with this one.",
            )
        first, second = np.frombuffer(kept, "<f4").astype(np.float32).reshape(2, -1)
        return Moments(first, second)

    def store_moments(self, round_number: int, adapter: bytes, moments: Moments | None) -> None:
        """Store what the server optimiser keeps with the adapter of this digest, durably."""
        if moments is not None:
            kept = b"".join(part.astype("<f4", copy=False).tobytes() for part in moments)
            write_durably(self._moments_path(round_number), digest(MOMENTS_LABEL, adapter, kept) + kept)

    def parts(self, round_number: int) -> Iterator[bytes]:
        """The file of the adapter after a round, in parts that fit into a message."""
        with self._path(round_number).open("rb") as file:
            while part := file.read(MAX_CHUNK_BYTES):
                yield part

    def drop_before(self, round_number: int) -> None:
        """Forget adapters of earlier rounds."""
        for kind in ("adapter", "moments"):
            for path in self._folder.glob(f"{kind}-*.f32"):
                if int(path.stem.partition("-")[2]) < round_number:
                    path.unlink(missing_ok=True)

    def _initial(self) -> Float32:
        if not isinstance(self._plan.task, ModelTask):
            return np.zeros(self._plan.values, np.float32)
        from silo_agent.train import initial_vector

        return initial_vector(self._plan, self.artifact_path.read_bytes())

    def _stored(self, round_number: int) -> Float32:
        try:
            return np.fromfile(self._path(round_number), "<f4").astype(np.float32, copy=False)
        except FileNotFoundError:
            return np.empty(0, np.float32)

    def _path(self, round_number: int) -> Path:
        return self._folder / f"adapter-{round_number}.f32"

    def _moments_path(self, round_number: int) -> Path:
        return self._folder / f"moments-{round_number}.f32"


def _most_bytes(plan: JobPlan) -> int:
    return min(MAX_ARTIFACT_BYTES, ARTIFACT_SLACK + FROZEN_SHARE * 4 * plan.values)


def _checked(parts: Iterable[bytes], sha256: bytes, most_bytes: int) -> Iterator[bytes]:
    """The parts. Raises Rejected once they are too many, or at the end if they are not those with this digest."""
    state, count = hashlib.sha256(), 0
    for part in parts:
        count += len(part)
        if count > most_bytes:
            why = f"is larger than {most_bytes} bytes, the most that a plan of this size can need"
            raise Rejected("starting adapter", why, "Nothing of it was kept; ask the coordinator.", sender=SENDER)
        state.update(part)
        yield part
    if state.digest() != sha256:
        raise Rejected(
            "starting adapter",
            "is not the file whose digest the plan pins",
            "Nothing of it was kept; ask the coordinator to submit the job again.",
            sender=SENDER,
        )


def next_adapter(
    plan: JobPlan,
    current: Float32,
    moments: Moments | None,
    sums: Iterable[npt.NDArray[np.uint32]],
    members: int,
) -> tuple[Float32, tuple[int, ...]]:
    """current + what the server optimiser makes of the mean of the members' updates, from the opened sum's blocks; and
    the validation sums that come after those, as they are.

    Float64 arithmetic rounded once to float32: the same bytes at every silo. `moments` are brought up to date. Raises
    what opening raises; use neither then.
    """
    ranges = coordinate_ranges(plan.tensors)
    following = np.empty_like(current)
    start, validation = 0, []
    for whole in sums:
        part = slice(start, min(start + len(whole), len(current)))
        start += len(whole)
        block = whole[: max(0, part.stop - part.start)]
        validation += whole[len(block) :].tolist()
        if len(block):
            mean = mean_from_sum(block, ranges[part], plan.grid.bits, members)
            kept = None if moments is None else Moments(moments.first[part], moments.second[part])
            following[part] = current[part] + server_step(plan.server, mean, kept)
    if start != plan.sent_values:
        raise VerificationError("opened sum", f"has {start} values of {plan.sent_values}", "The round was not applied.")
    return following, tuple(validation)
