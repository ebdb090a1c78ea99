"""The layout of a job's updates, whatever its suite: sizes, and all that an aggregator does with a chunk."""

from privacy.ckks.layout import Layout
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import MultikeyParams
from privacy.plan import JobPlan
from privacy.suites import Suite

UpdateLayout = Layout | MultikeyLayout


def layout_of(plan: JobPlan) -> UpdateLayout:
    """How an update of this job lies on the wire. Fixed by the plan alone: fields have room for its whole roster."""
    match plan.suite:
        case Suite.CKKS_GROUP:
            return Layout(plan.sent_values)
        case Suite.CKKS_MULTIKEY:
            params = MultikeyParams(plan.parameters, len(plan.cohort.roster), plan.grid.bits)
            return MultikeyLayout(plan.sent_values, params)
