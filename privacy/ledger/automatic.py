"""What an institution's agent may approve without asking anybody: the policy on record, held against it."""

from privacy.accounting import RELATIVE_TOLERANCE, rdp_epsilon, times, unshared
from privacy.errors import VerificationError
from privacy.ledger.entry import AutoPolicyEntry, JobApprovalEntry

_NEXT = "Compare the approval with the policy that is on record before it."


def check_automatic(entry: JobApprovalEntry, policy: AutoPolicyEntry) -> None:
    """An approval by the agent alone is within the newest policy on record. Raises VerificationError."""
    if entry.charge is None:
        if not policy.rehearsals:
            raise _beyond("the policy approves no rehearsals")
        return
    if not policy.auto_approve or policy.max_epsilon_per_job is None:
        raise _beyond("the policy approves no jobs on data")
    if policy.purposes and entry.purpose not in policy.purposes:
        raise _beyond(f"{entry.purpose!r} is none of the policy's purposes")
    if not policy.shared_noise and unshared(entry.charge.event) != entry.charge.event:
        raise _beyond("its noise is shared, which the policy does not approve")
    cost = rdp_epsilon(times(entry.charge.rdp, entry.rounds), entry.charge.delta)
    if cost > policy.max_epsilon_per_job * (1 + RELATIVE_TOLERANCE):
        raise _beyond(
            f"{entry.rounds} rounds cost epsilon {cost:.3f}, and the policy approves {policy.max_epsilon_per_job:g}"
        )


def _beyond(why: str) -> VerificationError:
    return VerificationError("automatic approval", why, _NEXT)
