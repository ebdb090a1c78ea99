"""What is checked of a job before this silo takes part, before any key is made or any budget touched.

Pure but for the plan's own digests: names, keys and pins in, an error out. Steps are those of protocol.md, "The job".
"""

from certs.identity import fingerprint
from certs.names import Role
from privacy.accounting import round_event
from privacy.budget import BudgetState
from privacy.errors import ConfigError, ProtocolError, Refused
from privacy.forecast import Forecast
from privacy.job_budget import require_job
from privacy.plan import JobPlan, RosterMember
from silo_agent.peers import Pins, trust_command


class ForeignJobError(ProtocolError):
    """The job is none that this silo could ever take part in; nothing of it is kept."""


def check_plan(plan: JobPlan, job: bytes, federation: str, silo: str, identity_key: bytes) -> None:
    """The plan is the job's, of this federation, and lists this silo with its own key. Raises ProtocolError."""

    def wrong(why: str) -> ProtocolError:
        return ProtocolError("job plan", why, "Nothing was joined; ask the coordinator.", sender="aggregator")

    if plan.digest() != job:
        raise wrong("is not the one whose digest names the job")
    if plan.federation != federation:
        raise wrong(f"is of federation {plan.federation}; this silo is in {federation}")
    own = plan.identity_keys.get(silo)
    if own is None:
        raise wrong(f"does not list this silo ({silo}) in its roster")
    if own != identity_key:
        raise wrong(f"lists this silo ({silo}) with another identity key")


def check_pins(plan: JobPlan, silo: str, pins: Pins) -> None:
    """Every other member is pinned here as a silo and the aggregator as an aggregator, with the plan's keys.

    Raises ConfigError for one that is not pinned and Refused for one that is pinned with another key. A coordinator
    that also runs the CA could otherwise invent "the other honest silos"; and were names without roles, an aggregator
    that calls itself like a silo could stand in for it.
    """
    others = [member for member in plan.cohort.roster if member.name != silo]
    for role, member in (*((Role.SILO, other) for other in others), (Role.AGGREGATOR, plan.aggregator)):
        _check_pin(role, member, pins.get((role, member.name)))


def _check_pin(role: Role, member: RosterMember, pinned: str | None) -> None:
    named = fingerprint(bytes.fromhex(member.identity_key))
    if pinned is None:
        raise ConfigError(
            f"peer {member.name}",
            f"is {role} in this job, and no {role} of that name is pinned here",
            f"Ask its operator for its fingerprint, then: {trust_command(role, member.name)}",
        )
    if pinned != named:
        raise Refused(
            f"peer {member.name}",
            f"the job names identity {named}; pinned here is {pinned}",
            f"Ask {member.name} by telephone which is right. The job was not joined. If the key was changed, a steward "
            f"pins the new one: {trust_command(role, member.name)}",
        )


def check_price(plan: JobPlan) -> None:
    """The mechanism is one that can be priced. Raises Refused, blaming the plan: nothing here can mend it."""
    if plan.dp is None:
        return
    try:
        round_event(plan.dp, plan.dp.steps_per_round)
    except ConfigError as error:
        raise Refused(
            f"job {plan.name!r}",
            f"its mechanism cannot be priced: {error.why}",
            "Nothing was spent; ask the coordinator.",
        ) from error


def check_rounds(plan: JobPlan, extra_rounds: int) -> int:
    """How many charged rounds an approval grants: the plan's, and `extra_rounds` for rounds that fail.

    Raises ConfigError for more than the plan can ever attempt.
    """
    most = plan.round_attempts - plan.rounds
    if not 0 <= extra_rounds <= most:
        raise ConfigError(
            "extra rounds",
            f"{extra_rounds}, and this job has {plan.rounds} rounds in at most {plan.round_attempts} attempts",
            f"Give 0 to {most}.",
        )
    return plan.rounds + extra_rounds


def check_budget(plan: JobPlan, population: str, budget: BudgetState | None, rounds: int) -> Forecast | None:
    """All `rounds` fit into the population's budget, on its terms.

    Raises ConfigError without a budget, BudgetRefusal for another unit, a larger delta, or too much (with what fits).
    """
    if plan.dp is None:
        return None
    if budget is None:
        raise ConfigError(
            f"population {population!r}",
            "has no privacy budget",
            f"A steward sets it: `cloister silo budget set {population} --epsilon E --delta D`.",
        )
    return require_job(budget, plan.digest().hex(), plan.purpose, plan.dp, rounds)
