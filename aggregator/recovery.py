"""After a restart: jobs out of rows, and a blob folder with nothing in it that belongs to nobody."""

from collections.abc import Mapping

from cloister.wire import RoundPhase

from aggregator import round_states as states
from aggregator.accumulate import RunningSum, update_paths
from aggregator.blobs import Blobs
from aggregator.live import LiveJob
from aggregator.rebuild import context_of, facts_of, job_state, round_state
from aggregator.store import JobRow, Kind, Store, Transaction
from privacy.ckks.layouts import layout_of
from privacy.plan import JobPlan


def rebuilt(tx: Transaction, row: JobRow) -> LiveJob:
    """A job as it stood when the aggregator was last up."""
    plan = JobPlan.decode(row.plan)
    live = LiveJob(row.job, plan, row.submitted_utc, job_state(tx, row, plan))
    live.closed_utc, live.forgotten = row.closed_utc, row.forgotten
    past = tx.rounds(row.job)
    if past:
        live.ctx = context_of(row.job, past[-1])
        live.round = round_state(past[-1], plan, facts_of(tx, row.job, past[-1].round))
        if isinstance(live.round, states.OPEN_ROUND):
            live.running_sum = RunningSum(layout_of(plan))
    return live


def sweep(tx: Transaction, blobs: Blobs, lives: Mapping[bytes, LiveJob]) -> None:
    """Remove what would be gone, had the aggregator not gone down between a commit and the removal that follows it."""
    blobs.drop_unknown(lives)
    for live in lives.values():
        if live.forgotten:
            blobs.forget(live.job)
            continue
        for row in tx.rounds(live.job):
            if row.phase >= RoundPhase.PUBLISHED:
                blobs.drop_spool(live.job, row.round, keep_sum=row.certified)


def drop_leftovers(store: Store, blobs: Blobs, live: LiveJob) -> None:
    """Remove updates that were on their way, or on disk but not yet accepted, when the aggregator went down."""
    blobs.drop_parts(live.job)
    if isinstance(live.round, states.Collecting):
        number = live.round.terms.number
        with store.reading() as tx:
            headers = tx.statements(live.job, number, Kind.HEADER)
        folder = blobs.round(live.job, number)
        accepted = {path for silo, header in headers.items() for path in update_paths(folder, silo, header, live.plan)}
        blobs.drop_except(folder, accepted)
