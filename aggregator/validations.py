"""The validation figures that a job's rounds published, from the silos' signed reports."""

from cloister.wire import MOST_VALIDATIONS, Validation

from aggregator.live import LiveJob
from aggregator.reading import members_of, only
from aggregator.store import Kind, RoundRow, Transaction
from privacy.statement import read
from privacy.transcript import Applied
from privacy.validation import read_validation


def validation_of(tx: Transaction, live: LiveJob, row: RoundRow) -> tuple[Validation, ...]:
    """One, or none: the round has no result, the plan publishes nothing, noise drowns it, or silos disagree."""
    if row.result is None or live.plan.dp is None or live.plan.dp.metrics is None:
        return ()
    reports = [read(signed, Applied) for signed in tx.statements(live.job, row.round, Kind.APPLIED).values()]
    commit = only(tx.statements(live.job, row.round, Kind.COMMIT))
    said = {report.validation for report in reports}
    if commit is None or len(said) != 1:
        return ()
    found = read_validation(live.plan, said.pop(), len(members_of(commit)))
    if found is None:
        return ()
    return (
        Validation(
            round=row.round,
            accuracy=found.accuracy,
            loss=found.loss,
            units=found.units,
            accuracy_error=found.accuracy_error,
        ),
    )


def last_validations(tx: Transaction, live: LiveJob) -> tuple[Validation, ...]:
    """Those of the job's last rounds that have a result, in order."""
    if live.plan.dp is None or live.plan.dp.metrics is None:
        return ()
    published = [row for row in tx.rounds(live.job) if row.result is not None][-MOST_VALIDATIONS:]
    return tuple(each for row in published for each in validation_of(tx, live, row))
