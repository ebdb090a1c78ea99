"""The opened model of a job whose plan opens to the aggregator as well (`open_to`): a silo brings it.

When such a job is over its silos are asked for the global adapter after the last published round. What is kept is what
they agreed on: its digest is in their Applied statements.
"""

import mmap
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cloister.wire import ModelName

from aggregator.blobs import storing, sync_folder
from aggregator.reading import last_published, model_wanted, roster_job
from aggregator.runner import Runner
from privacy.canonical import digest
from privacy.errors import ProtocolError, Unavailable
from privacy.flatten import ADAPTER_LABEL
from privacy.plan import JobPlan

VALUE_BYTES = 4


class ModelDesk:
    """Takes models in, one silo at a time."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._coming: dict[bytes, str] = {}

    def submit(self, silo: str, named: ModelName, parts: Iterable[bytes]) -> None:
        """Store the model, whole and durably, unless it is here. The parts are read only if it is wanted.

        Raises Refused if the silo is not in the job, ProtocolError if it is not the model that is wanted or not what
        the silos agreed on, Unavailable while another silo brings it.
        """
        live = roster_job(self._runner, silo, named.job)
        with self._runner.store.reading() as tx:
            wanted, last = model_wanted(tx, self._runner.blobs, live), last_published(tx, live)
        if last is not None and last.round == named.round and self._runner.blobs.model(live.job).exists():
            return
        if wanted != named.round or last is None or last.result is None:
            why = f"that after round {named.round} is not wanted" + (f", but {wanted}'s" if wanted else "")
            raise ProtocolError(f"model of job {live.plan.name}", why, "Ask for the job (GetJob).", sender=silo)
        with self._alone(silo, live.job):
            self._store(silo, live.plan, self._runner.blobs.model(live.job), last.result, parts)

    @contextmanager
    def _alone(self, silo: str, job: bytes) -> Iterator[None]:
        with self._lock:
            other = self._coming.get(job)
            if other is not None:
                raise Unavailable("model", f"is being sent by {other}", "Ask again in a moment whether it is wanted.")
            self._coming[job] = silo
        try:
            yield
        finally:
            with self._lock:
                del self._coming[job]

    def _store(self, silo: str, plan: JobPlan, path: Path, agreed: bytes, parts: Iterable[bytes]) -> None:
        part, size, expected = path.with_name(f"{secrets.token_hex(8)}.part"), 0, VALUE_BYTES * plan.values
        try:
            with storing(path), part.open("wb") as file:
                for data in parts:
                    size += len(data)
                    if size > expected:
                        raise _wrong(silo, plan, f"is oversized: more than {expected} bytes")
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if size != expected:
                raise _wrong(silo, plan, f"is truncated: {size} of {expected} bytes came")
            if file_digest(part) != agreed:
                raise _wrong(silo, plan, "is not the adapter that the silos reported")
            with storing(path):
                part.rename(path)
                sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def file_digest(path: Path) -> bytes:
    """`privacy.flatten.adapter_digest` of a file of coordinates, which is not taken into memory."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        return digest(ADAPTER_LABEL, data)


def _wrong(silo: str, plan: JobPlan, why: str) -> ProtocolError:
    return ProtocolError(f"model of job {plan.name}", why, "It was not kept.", sender=silo)
