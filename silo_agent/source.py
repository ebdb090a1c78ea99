"""Where a round's update comes from: training on the silo's data, or a rehearsal's made-up values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from privacy.plan import JobPlan, RoundContext
from privacy.tasks import Rehearsal
from silo_agent.rehearsal import rehearsal_vector

if TYPE_CHECKING:
    from silo_agent.train import Training

Float32 = npt.NDArray[np.float32]
Update = Float32 | npt.NDArray[np.uint16]
"""In units of the adapter, to be rounded; or on the grid already, where rounding is a part of the mechanism."""
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class SourcedUpdate:
    """One noised update, and what the engine itself counted while it was made; 0 where there is no mechanism."""

    vector: Update = field(repr=False)
    steps_executed: int
    noise_additions: int


@dataclass(frozen=True)
class SelfTest:
    """A self-test that was passed: the names of its checks, and its report (canonical JSON, from made-up examples)."""

    checks: tuple[str, ...]
    report: bytes = field(repr=False)


class UpdateSource(Protocol):
    """What runs the mechanism of a job. Nothing in it touches the budget."""

    def prepare(self) -> SelfTest | None:
        """Check data and model, run the self-test; None where there is none. Raises ConfigError, Refused, ..."""
        ...

    def update(self, ctx: RoundContext, adapter: Float32, on_step: OnStep) -> SourcedUpdate:
        """Run the mechanism once, from this global adapter: the noised update, clipped and rounded later."""
        ...

    def evaluate(self, adapter: Float32, path: Path) -> None:
        """Evaluate a global adapter on the held-out part into a local file; nothing where there is none."""
        ...


class RehearsalSource:
    """Made-up values; no data, no budget."""

    def __init__(self, plan: JobPlan, silo: str) -> None:
        self._plan = plan
        self._silo = silo

    def prepare(self) -> SelfTest | None:
        """Nothing to check."""
        return None

    def update(self, ctx: RoundContext, adapter: Float32, on_step: OnStep) -> SourcedUpdate:
        """See `rehearsal_vector`."""
        on_step(0, 1)
        ranges = {tensor.update_range for tensor in self._plan.tensors}
        vector = rehearsal_vector(self._silo, ctx.plan_digest, ctx.round_number, len(adapter), ranges.pop())
        on_step(1, 1)
        return SourcedUpdate(vector, 0, 0)

    def evaluate(self, adapter: Float32, path: Path) -> None:
        """Nothing to evaluate."""


class TrainingSource:
    """DP-SGD on the silo's own dataset; prepared once a job, since preparing costs most."""

    def __init__(self, prepare: Callable[[], "Training"]) -> None:
        self._prepare = prepare
        self._training: Training | None = None

    def _prepared(self) -> "Training":
        if self._training is None:
            self._training = self._prepare()
        return self._training

    def prepare(self) -> SelfTest | None:
        """Check dataset, model and starting adapter against the plan, then the engine's preflight: once a process."""
        report = self._prepared().self_test
        return SelfTest(tuple(finding.check for finding in report.findings), report.encode())

    def update(self, ctx: RoundContext, adapter: Float32, on_step: OnStep) -> SourcedUpdate:  # noqa: ARG002 - the port's
        """One round of DP-SGD, with the engine's counts; whether they are the plan's, the round machine decides."""
        trained = self._prepared().run_round(adapter, on_step)
        return SourcedUpdate(trained.update, trained.executed.steps, trained.executed.noise_additions)

    def evaluate(self, adapter: Float32, path: Path) -> None:
        """Accuracy and probabilities on the held-out part, into `path`."""
        self._prepared().evaluate(adapter).write(path)


def source_for(plan: JobPlan, silo: str, training: Callable[[], "Training"]) -> UpdateSource:
    """The source a plan's task calls for."""
    if isinstance(plan.task, Rehearsal) or plan.dp is None:
        return RehearsalSource(plan, silo)
    return TrainingSource(training)
