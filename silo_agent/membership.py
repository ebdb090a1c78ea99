"""A job this silo is a member of: the plan, the roll and the key commitment it acts on, the budget it charges."""

from dataclasses import dataclass, field

from privacy.errors import InternalError
from privacy.plan import JobPlan
from privacy.roll import Roll, check_deal, check_roll
from privacy.statement import Signed
from silo_agent.entries import Charged
from silo_agent.jobs import AcceptedRoll


@dataclass(frozen=True)
class Membership:
    """Fixed for the whole job once the cohort's key is in the vault."""

    job: bytes
    plan: JobPlan = field(repr=False)
    silo: str
    roll: Roll = field(repr=False)
    deal: Signed | None = field(repr=False)  # None, and no commitment: keys are made for each round
    key_commitment: bytes
    charged: Charged | None  # None: a rehearsal

    def __post_init__(self) -> None:
        """Raises InternalError for a job on data that would charge nobody, and for keys of another suite."""
        if (self.deal is None) != self.plan.suite.keyed:
            raise InternalError(f"job {self.job.hex()[:12]}", f"has no keys of {self.plan.suite}", "Report this.")
        if (self.plan.dp is None) != (self.charged is None):
            raise InternalError(
                f"job {self.job.hex()[:12]}", "what it charges is not what its plan says", "Report this."
            )

    @classmethod
    def of(cls, plan: JobPlan, silo: str, accepted: AcceptedRoll, charged: Charged | None) -> "Membership":
        """From what was accepted and stored; every signature is checked again."""
        roll = check_roll(plan, accepted.joins)
        if accepted.deal is not None:
            check_deal(plan, roll, accepted.deal, {})
        return cls(plan.digest(), plan, silo, roll, accepted.deal, accepted.key_commitment, charged)
