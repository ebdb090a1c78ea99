"""Limits within a lifetime budget: what any one job, and all jobs of one purpose, may spend of a population.

The lifetime cap alone carries the promise to patients: its filter holds for jobs that are chosen from what others
released. A sub-cap is an institution's own rule within it, counted as people read it: the Renyi epsilon, at its best
order, of what the job or the purpose has charged, at the population's delta.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from immutables import Map

from privacy.accounting import ZERO, Vector, add, rdp_epsilon, times

MOST_PURPOSES: Final = 100


@dataclass(frozen=True)
class SubCaps:
    """Epsilons at the population's delta; None, or a purpose that is not named: no limit but the lifetime cap."""

    per_job: float | None = None
    purposes: Map[str, float] = Map()

    def of(self, purpose: str | None) -> float | None:
        """The cap of one purpose, or, without one, of every single job."""
        return self.per_job if purpose is None else self.purposes.get(purpose)

    def changed(self, purpose: str | None, epsilon: float | None) -> "SubCaps":
        """With another cap for this purpose (None: for every single job); epsilon None takes it away."""
        if purpose is None:
            return replace(self, per_job=epsilon)
        if epsilon is not None:
            return replace(self, purposes=self.purposes.set(purpose, epsilon))
        return replace(self, purposes=self.purposes.delete(purpose) if purpose in self.purposes else self.purposes)


NONE: Final = SubCaps()


@dataclass(frozen=True, eq=False)
class Account:
    """What one job has charged a population, ever; a refusal and another approval do not start it anew.

    A job's rounds mostly cost the same, so that they are counted, and added up when somebody asks.
    """

    purpose: str
    earlier: Vector = ZERO  # all but the last charges, which are of one cost
    vector: Vector = ZERO
    count: int = 0

    def charged(self, vector: Vector) -> "Account":
        """With one more charge."""
        if vector == self.vector:
            return Account(self.purpose, self.earlier, vector, self.count + 1)
        return Account(self.purpose, self.committed, vector, 1)

    @cached_property
    def committed(self) -> Vector:
        """All charges together."""
        return add(self.earlier, times(self.vector, self.count)) if self.count else self.earlier

    def __eq__(self, other: object) -> bool:
        """Whether it is of one purpose and comes to the same."""
        if not isinstance(other, Account):
            return NotImplemented
        return self is other or (self.purpose == other.purpose and self.committed == other.committed)

    def __hash__(self) -> int:
        """As of the purpose."""
        return hash(self.purpose)


@dataclass(frozen=True)
class Excess:
    """A sub-cap that would be passed: whose (a purpose; None: the job's own), where it stands and would come to."""

    purpose: str | None
    cap: float
    before: float
    after: float


def first_excess(
    caps: SubCaps, delta: float, purpose: str, job: Vector, others: Iterable[Vector], more: Vector
) -> Excess | None:
    """The first sub-cap that `more` would pass, if any.

    `job` is what the job has charged and reserved, `others` what the other jobs of its purpose have.
    """
    if caps.per_job is not None and (excess := _excess(None, caps.per_job, delta, job, more)) is not None:
        return excess
    cap = caps.purposes.get(purpose)
    if cap is None:
        return None
    total = job
    for vector in others:
        total = add(total, vector)
    return _excess(purpose, cap, delta, total, more)


def _excess(purpose: str | None, cap: float, delta: float, before: Vector, more: Vector) -> Excess | None:
    after = rdp_epsilon(add(before, more), delta)
    return Excess(purpose, cap, rdp_epsilon(before, delta), after) if after > cap else None
