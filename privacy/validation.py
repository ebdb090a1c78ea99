"""What the opened validation sums of a round say, from the plan alone. Everybody who has an `Applied` can read them."""

from collections.abc import Sequence

import numpy as np

from privacy.errors import ProtocolError
from privacy.flatten import coordinate_ranges
from privacy.metrics import COORDINATES, Validation, validation
from privacy.plan import JobPlan
from privacy.quantise import grid_top, mean_from_sum
from privacy.transcript import Applied


def require_validation(plan: JobPlan, applied: Applied) -> None:
    """The statement has as many validation sums as the plan, each one a sum of grid values. Raises ProtocolError."""
    wanted = 0 if plan.dp is None or plan.dp.metrics is None else COORDINATES
    most = len(plan.cohort.roster) * grid_top(plan.grid.bits)
    if len(applied.validation) != wanted or any(each > most for each in applied.validation):
        raise ProtocolError(
            "applied",
            f"its validation is not {wanted} sums of at most {most}",
            "It was not accepted.",
            sender=applied.silo,
            step="apply",
        )


def read_validation(plan: JobPlan, sums: Sequence[int], members: int) -> Validation | None:
    """The figures of a round with so many members in its sum; None if the plan publishes none, or noise drowns them.

    Raises InternalError if the sums cannot be those of so many members.
    """
    if plan.dp is None or plan.dp.metrics is None:
        return None
    ranges = coordinate_ranges((plan.dp.metrics_tensor(plan.grid.bits),))
    totals = members * mean_from_sum(np.array(sums, np.uint32), ranges, plan.grid.bits, members)
    return validation(totals.tolist(), plan.dp.metrics_deviation(members, plan.grid.bits), plan.dp.metrics.loss_bound)
