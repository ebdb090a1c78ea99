"""A job against a population's budget: whether it promises what the budget is counted in, and whether it all fits."""

from privacy.accounting import rdp_epsilon, rdp_vector, round_event, times
from privacy.budget import BudgetPolicy, BudgetRefusal, BudgetState, check_sub_caps, over_cap, what_if
from privacy.forecast import Forecast
from privacy.mechanism import DpSgd
from privacy.plan import JobPlan


def check_terms(policy: BudgetPolicy, dp: DpSgd) -> None:
    """The plan promises what the budget is counted in. Raises BudgetRefusal for another unit or a larger delta."""
    what = f"budget of {policy.population}"
    if dp.unit != policy.unit:
        raise BudgetRefusal(
            "unit",
            what,
            f"it protects each {policy.unit}, and the job protects each {dp.unit}",
            f'Ask the coordinator for a job with unit = "{policy.unit}"; a budget keeps its unit.',
        )
    if dp.delta > policy.delta:
        raise BudgetRefusal(
            "delta",
            what,
            f"the job's delta is {dp.delta:g}, and the budget allows {policy.delta:g}",
            f"Ask the coordinator for a job with a delta of at most {policy.delta:g}.",
        )


def require_job(state: BudgetState, job: str, purpose: str, dp: DpSgd, rounds: int) -> Forecast:
    """The forecast of a whole job (its plan digest in hex). Raises BudgetRefusal for other terms (`check_terms`), or if
    not all of it fits: that names cap, spent, left and what would fit.

    Nothing is reserved by this; every round reserves for itself.
    """
    check_terms(state.policy, dp)
    vector = rdp_vector(round_event(dp, dp.steps_per_round))
    forecast = what_if(state, vector, rounds)
    if not forecast.fits:
        sigma = noise_multiplier_that_fits(state, dp, rounds)
        other = f"a noise multiplier of at least {sigma:g}" if sigma is not None else "no noise multiplier"
        raise over_cap(state, f"{rounds} rounds", forecast, f"With all {rounds} rounds, {other} would fit.")
    check_sub_caps(state, job, purpose, vector, rounds)
    return forecast


def noise_multiplier_that_fits(state: BudgetState, dp: DpSgd, rounds: int) -> float | None:
    """The least noise multiplier, to two decimals, with which the plan's rounds would all fit; None if none does."""

    def fits(hundredths: int) -> bool:
        quieter = dp.model_copy(update={"noise_multiplier": hundredths / 100})
        return what_if(state, rdp_vector(round_event(quieter, dp.steps_per_round)), rounds).fits

    low, high = 1, 1_000_000
    if not fits(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low / 100


def job_epsilon(plan: JobPlan, delta: float, rounds: int) -> float:
    """What so many rounds of the plan cost on their own: epsilon (RDP) at this delta; 0 for a rehearsal.

    Raises ConfigError for a mechanism that cannot be priced.
    """
    if plan.dp is None:
        return 0.0
    vector = times(rdp_vector(round_event(plan.dp, plan.dp.steps_per_round)), rounds)
    return rdp_epsilon(vector, delta)
