"""What `submit` refuses, before a job exists: pure, so that every refusal is a test."""

from collections.abc import Iterable

from aggregator.store import MemberRow
from certs.identity import Identity
from certs.names import Role
from privacy.errors import Refused
from privacy.plan import JobPlan
from privacy.tasks import ModelTask

_PLAN_AGAIN = "Plan the job again from the aggregator's present members (`cloister job plan`)."


def check_plan(plan: JobPlan, identity: Identity, members: Iterable[MemberRow]) -> None:
    """The plan is for this federation and aggregator, its silos are enrolled with these keys.

    Raises Refused naming the first thing that is not so.
    """
    what = f"job {plan.name}"
    if plan.federation != identity.party.federation:
        why = f"is for the federation {plan.federation!r}, and this is {identity.party.federation!r}"
        raise Refused(what, why, "Submit it to that federation's aggregator, or correct the job file.")
    if (plan.aggregator.name, plan.aggregator.identity_key) != (identity.party.name, identity.public_key.hex()):
        why = f"names the aggregator {plan.aggregator.name!r} with another identity key than this aggregator's"
        raise Refused(what, why, _PLAN_AGAIN)
    _check_roster(plan, {member.name: member for member in members if member.role is Role.SILO})


def _check_roster(plan: JobPlan, silos: dict[str, MemberRow]) -> None:
    for member in plan.cohort.roster:
        enrolled = silos.get(member.name)
        if enrolled is None:
            why = f"its roster lists {member.name}, which is not enrolled here"
            step = f"Invite it (`cloister aggregator invite {member.name}`), or leave it out."
            raise Refused(f"job {plan.name}", why, step)
        if enrolled.identity_key.hex() != member.identity_key:
            why = f"its roster has another identity key for {member.name} than the one that is enrolled"
            raise Refused(f"job {plan.name}", why, _PLAN_AGAIN)


def check_artifact(plan: JobPlan, sha256: str, size: int) -> None:
    """The starting adapter is the one the plan pins; a rehearsal has none. Raises Refused."""
    match plan.task:
        case ModelTask(adapter=adapter) if sha256 != adapter.initial_sha256:
            why = (
                f"adapter.safetensors has the digest {sha256[:16]}..., and the plan pins {adapter.initial_sha256[:16]}"
            )
            raise Refused(f"job {plan.name}", why, "Submit the folder as `cloister job plan` wrote it.")
        case ModelTask():
            return
        case _ if size:
            raise Refused(
                f"job {plan.name}",
                "is a rehearsal and takes no adapter",
                "Submit the folder without adapter.safetensors.",
            )
