"""The three pieces of heavy work in a round: train, seal, open. Memory: the model's values a few times, not n times."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import structlog

from privacy.ckks.fingerprint import encode, root_and_fingerprint, warm_up
from privacy.ckks.layouts import layout_of
from privacy.errors import (
    CloisterError,
    ConfigError,
    InternalError,
    ProtocolError,
    Refused,
    Unavailable,
    VerificationError,
)
from privacy.flatten import adapter_digest, coordinate_ranges
from privacy.plan import RoundContext
from privacy.quantise import blocks_on_grid
from privacy.server import Moments
from privacy.transcript import CheckedCommit
from silo_agent.apply import AdapterShelf, next_adapter
from silo_agent.ciphers import cipher_of
from silo_agent.home import Home
from silo_agent.jobs import require_job_record
from silo_agent.membership import Membership
from silo_agent.round_events import (
    EvidenceRejected,
    PreparationFailed,
    SealingFailed,
    SumOpened,
    TrainingFailed,
    TrainingFinished,
    UpdateSealed,
)
from silo_agent.source import Update, UpdateSource
from silo_agent.status import JobBoard, Timing
from silo_agent.sums import FetchedSum

LOG = structlog.get_logger("silo.round")
NS = 1e-9
WAIT_S = 0.5  # so often a job that waits for another's training looks whether it should still
_TRAINING = threading.Lock()  # one job trains at a time: they would share the same cores and memory


Opener = Callable[[FetchedSum], Iterator[npt.NDArray[np.uint32]]]


class _Interrupted(Exception):  # noqa: N818 - a decision, not a failure
    """Training was told to stop; the reason is its text."""


class RoundWork:
    """Trains, seals and opens for one job. `interrupted(round)` says why training should stop, or None."""

    def __init__(
        self,
        home: Home,
        membership: Membership,
        source: UpdateSource,
        board: JobBoard,
        interrupted: Callable[[int], str | None],
    ) -> None:
        self._home = home
        self._member = membership
        self._source = source
        self._board = board
        self._interrupted = interrupted
        self._updates: dict[int, Update] = {}
        self.layout = layout_of(membership.plan)
        self.cipher = cipher_of(home, membership, self.layout)
        warm_up(self.layout)
        self.shelf = AdapterShelf(home.artifacts(membership.job), membership.plan)

    def prepare(self) -> PreparationFailed | None:
        """Check data and model and run the self-test, once a process: before a round's budget is reserved, also when
        the agent was started again in the middle of a job. Raises Unavailable, to be tried again.
        """
        try:
            self._source.prepare()
        except Unavailable:
            raise
        except CloisterError as error:
            LOG.warning("cannot train", exc_info=error)
            return PreparationFailed(f"{error.what}: {error.why}")
        except Exception as error:  # a bug or no memory: nothing is reserved, the others need not wait
            LOG.exception("cannot train")
            return PreparationFailed(f"preparing met a bug ({type(error).__name__})")
        return None

    def train(self, ctx: RoundContext, timing: Timing) -> TrainingFinished | TrainingFailed:
        """Run the mechanism; the update stays in memory until `seal`."""
        number, steps, started = ctx.round_number, 0, time.monotonic()

        def on_step(done: int, planned: int) -> None:
            nonlocal steps
            steps = done
            self._board.show(step=done, steps=planned)
            self._require_wanted(number)

        try:
            with self._training_alone(number):
                self.cipher.begin(ctx)
                made = self._source.update(ctx, self.adapter(), on_step)
        except _Interrupted as stop:
            return TrainingFailed(steps, str(stop))
        except (ConfigError, Refused, VerificationError) as error:
            LOG.warning("training failed", round=number, exc_info=error)
            return TrainingFailed(steps, f"{error.what}: {error.why}")
        except Exception as error:  # a bug or no memory: the job goes on with the next round, this one is spent
            LOG.exception("training failed", round=number)
            return TrainingFailed(max(steps, 1), f"training met a bug ({type(error).__name__})")
        timing.train_s = time.monotonic() - started
        self._updates[number] = made.vector
        dp = self._member.plan.dp
        return TrainingFinished(made.steps_executed, made.noise_additions, 0 if dp is None else dp.steps_per_round)

    @contextmanager
    def _training_alone(self, number: int) -> Iterator[None]:
        """The cores for this job; raises _Interrupted, before any step, if the round needs no update by then."""
        self._require_wanted(number)
        while not _TRAINING.acquire(timeout=WAIT_S):
            self._require_wanted(number)
        try:
            self._require_wanted(number)
            yield
        finally:
            _TRAINING.release()

    def _require_wanted(self, number: int) -> None:
        why = self._interrupted(number)
        if why is not None:
            raise _Interrupted(why)

    def seal(self, ctx: RoundContext, timing: Timing) -> UpdateSealed | SealingFailed:
        """Quantise and encrypt block by block into the outbox."""
        number, plan, started = ctx.round_number, self._member.plan, time.thread_time_ns()
        try:
            vector, ranges = self._updates.pop(number), coordinate_ranges(plan.sent)
            blocks = blocks_on_grid(vector, ranges, plan.grid.bits, self.layout.values_per_block)
            sealed = self.cipher.seal(ctx, _timed(blocks, timing), timing)
            digests = self._home.outbox.write(self._member.job, number, sealed.parts, self.layout)
        except CloisterError as error:
            LOG.warning("sealing failed", round=number, exc_info=error)
            return SealingFailed(f"{error.what}: {error.why}")
        timing.seal_ns = time.thread_time_ns() - started - timing.quantise_ns
        return UpdateSealed(sealed.header(digests))

    def fingerprint(self, number: int, commit: bytes, residues_root: str) -> str:
        """Step 3: that of the sealed update, under the commit's challenge, once it was compared with its header.

        Raises ConfigError if this machine's disk no longer has what was signed.
        """
        chunks = self._home.outbox.residues(self._member.job, number, self.layout)
        try:
            root, value = root_and_fingerprint(self.layout, commit, chunks)
        except (OSError, ProtocolError) as error:
            root, value, why = b"", (), f"cannot be read back: {error}"
        else:
            why = "is not what was signed"
        if root.hex() != residues_root:
            step = "Check this machine's disk; the round goes on without this silo."
            raise ConfigError(f"sealed update of round {number}", why, step)
        return encode(value)

    def open(
        self, ctx: RoundContext, checked: CheckedCommit, opener: Opener, timing: Timing
    ) -> SumOpened | EvidenceRejected:
        """Open the fetched and compared sum and store the next adapter. Nothing of a sum that does not open is used.

        Raises ConfigError or VerificationError when this silo's own key or adapter is not on disk as it must be.
        """
        number, plan, started = ctx.round_number, self._member.plan, time.thread_time_ns()
        fetched, adapter, moments = self.fetched(number), self.adapter(), self._moments()
        try:
            sums = opener(fetched)
            following, validation = next_adapter(plan, adapter, moments, sums, len(checked.members))
        except (ProtocolError, VerificationError, InternalError) as error:
            LOG.warning("the sum does not open", round=number, exc_info=error)
            return EvidenceRejected(f"{error.what}: {error.why}")
        timing.open_ns = time.thread_time_ns() - started
        digest = adapter_digest(following)
        self.shelf.store_moments(number, digest, moments)
        self.shelf.store(number, following)
        return SumOpened(digest, validation)

    def evaluate(self, number: int) -> None:
        """Evaluate the global adapter after a round at home. A failure is logged and changes nothing."""
        path = self._home.results(self._member.job) / f"evaluation-{number}.json"
        try:
            with _TRAINING:
                self._source.evaluate(self.adapter(), path)
        except Exception:  # whatever it is, the round itself is done
            LOG.exception("evaluation failed", round=number)

    def erase(self, number: int) -> None:
        """Take the round's sealed update and fetched sum off the disk, and what was made to seal it with."""
        self._updates.pop(number, None)
        self.cipher.drop(number)
        self._home.outbox.erase(self._member.job, number)
        self.fetched(number).erase()

    def fetched(self, number: int) -> FetchedSum:
        """The round's sum on disk."""
        return FetchedSum(self._home.artifacts(self._member.job) / f"sum-{number}", self._member.plan)

    def adapter(self) -> npt.NDArray[np.float32]:
        """The current global adapter, from disk."""
        with self._home.store.reading() as connection:
            record = require_job_record(connection, self._member.job)
        return self.shelf.load(record.adapter_round, record.adapter_digest)

    def _moments(self) -> Moments | None:
        """What the server optimiser kept with it."""
        with self._home.store.reading() as connection:
            record = require_job_record(connection, self._member.job)
        return self.shelf.load_moments(record.adapter_round, record.adapter_digest)


def _timed(blocks: Iterator[npt.NDArray[np.uint16]], timing: Timing) -> Iterator[npt.NDArray[np.uint16]]:
    """The same blocks; the time they took goes to `timing`."""
    while True:
        started = time.thread_time_ns()
        block = next(blocks, None)
        timing.quantise_ns += time.thread_time_ns() - started
        if block is None:
            return
        yield block
