"""Steps 2 and 4: fix the sum over accepted updates and sign what it is."""

from pathlib import Path

from aggregator.accumulate import RunningSum, update_paths
from aggregator.round_events import CommitSum
from aggregator.store import Kind, Transaction
from certs.identity import Identity
from privacy.envelope import header_digest
from privacy.plan import JobPlan, RoundContext
from privacy.statement import Signed, message_to_sign
from privacy.transcript import CommitMember, RoundCommit


def commit_sum(
    tx: Transaction,
    plan: JobPlan,
    ctx: RoundContext,
    action: CommitSum,
    running_sum: RunningSum,
    path: Path,
    identity: Identity,
) -> Signed:
    """The signed commit to the sum over the action's members, whose residues are at `path` when this returns.

    The caller stores it in the same transaction as the round's phase, before anybody sees it; one an attempt, ever.
    """
    headers = tx.statements(ctx.plan_digest, ctx.round_number, Kind.HEADER)
    residues = {silo: update_paths(path.parent, silo, headers[silo], plan)[0] for silo in action.members}
    commit = RoundCommit(
        plan=ctx.plan_digest.hex(),
        aggregator=plan.aggregator.name,
        round=ctx.round_number,
        ctx=ctx.digest().hex(),
        attempt=action.attempt,
        members=tuple(CommitMember(silo=silo, header=header_digest(headers[silo]).hex()) for silo in action.members),
        sum_root=running_sum.commit(residues, path).hex(),
    )
    return Signed(commit.body(), identity.sign(message_to_sign(commit)))
