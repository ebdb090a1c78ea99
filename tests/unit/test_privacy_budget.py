"""Budget: what is admitted, what is refused and in which words."""

from dataclasses import replace

import pytest

from privacy.accounting import Gaussian, PoissonSampled, SelfComposed, rdp_epsilon, rdp_vector, times
from privacy.budget import (
    BudgetPolicy,
    BudgetRefusal,
    BudgetState,
    Grant,
    RoundKey,
    commit,
    first_budget,
    grant,
    refund,
    reserve,
    what_if,
    withdraw,
)
from privacy.budget_change import change_sub_cap
from privacy.errors import ConfigError, InternalError, Refused
from privacy.job_budget import check_terms, noise_multiplier_that_fits, require_job
from privacy.mechanism import DpSgd
from privacy.sub_caps import Account

JOB = "ab" * 32
PURPOSE = "heart disease"


def sgd(sigma: float, steps: int = 1, q: float = 0.5) -> tuple[float, ...]:
    sampled = PoissonSampled(sampling_probability=q, event=Gaussian(noise_multiplier=sigma))
    return rdp_vector(SelfComposed(count=steps, event=sampled))


def plan_dp(sigma: float, **changes: object) -> DpSgd:
    dp = DpSgd(
        clip_l2=1.0,
        noise_multiplier=sigma,
        sampling_rate=0.5,
        steps_per_round=1,
        expected_batch_size=50.0,
        unit="patient",
        delta=1e-3,
    )
    return dp.model_copy(update=changes)


@pytest.fixture
def fresh() -> BudgetState:
    return first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))


def key(number: int) -> RoundKey:
    return RoundKey(JOB, number)


def held_after(state: BudgetState, of: RoundKey, vector: tuple[float, ...]) -> BudgetState:
    """Reserve for a job that may have any number of such rounds."""
    granted = state.grants.get(of.job)
    if of not in state.closed and of not in state.reserved and (granted is None or granted.vector != vector):
        accounts = state.accounts.set(of.job, state.accounts.get(of.job, Account(PURPOSE)))
        state = replace(state, grants=state.grants.set(of.job, Grant(vector, 10_000)), accounts=accounts)
    return reserve(state, of, vector)


@pytest.mark.parametrize("sigma", [2.0, 3.5, 6.5])
def test_rounds_of_one_kind_are_admitted_exactly_as_long_as_the_best_order_allows(
    fresh: BudgetState, sigma: float
) -> None:
    vector, state, admitted = sgd(sigma), fresh, 0
    promised = what_if(fresh, vector, 1).rounds_that_fit
    while what_if(state, vector, 1).fits:
        state = held_after(state, key(admitted), vector)
        admitted += 1
    assert admitted == promised
    assert rdp_epsilon(times(vector, admitted), 1e-3) == state.charged_epsilon <= 2.0
    assert rdp_epsilon(times(vector, admitted + 1), 1e-3) > 2.0


def test_the_order_is_fixed_by_the_first_reservation_and_stays_after_a_refund(fresh: BudgetState) -> None:
    state = held_after(fresh, key(0), sgd(6.5))
    order = state.filter_order
    assert order is not None
    state = held_after(refund(state, key(0)), key(1), sgd(0.8, q=0.01))
    assert state.filter_order == order


def test_a_mixture_never_passes_the_cap_of_the_fixed_order(fresh: BudgetState) -> None:
    state = held_after(fresh, key(0), sgd(20.0))
    assert state.filter_order is not None
    order_epsilon = what_if(state, sgd(0.9, q=0.01), 10_000)
    assert not order_epsilon.fits
    assert order_epsilon.epsilon_needed > 2.0


def test_spending_only_moves_from_reserved_to_committed(fresh: BudgetState) -> None:
    held = held_after(fresh, key(0), sgd(3.5))
    assert held.spent_epsilon == 0
    assert held.charged_epsilon > 0
    spent = commit(held, key(0), sgd(3.5))
    assert spent.spent_epsilon == held.charged_epsilon == spent.charged_epsilon
    assert spent.left_epsilon == pytest.approx(2.0 - spent.spent_epsilon)


def test_a_retry_of_a_reservation_changes_nothing(fresh: BudgetState) -> None:
    held = held_after(fresh, key(0), sgd(3.5))
    assert held_after(held, key(0), sgd(3.5)) is held


def test_one_round_number_is_one_charge(fresh: BudgetState) -> None:
    held = held_after(fresh, key(0), sgd(3.5))
    with pytest.raises(Refused, match="reserved for another mechanism"):
        held_after(held, key(0), sgd(6.5))
    for closed in (commit(held, key(0), sgd(3.5)), refund(held, key(0))):
        with pytest.raises(Refused, match=r"round 0 of job abababababab was charged or refunded before.*next round"):
            held_after(closed, key(0), sgd(3.5))
        with pytest.raises(InternalError, match="nothing is reserved for round 0"):
            commit(closed, key(0), sgd(3.5))
        with pytest.raises(InternalError, match="nothing is reserved for round 0"):
            refund(closed, key(0))


def test_more_than_was_reserved_is_our_bug_and_the_reservation_stands(fresh: BudgetState) -> None:
    held = held_after(fresh, key(0), sgd(3.5))
    with pytest.raises(InternalError, match="more ran in round 0"):
        commit(held, key(0), sgd(3.5, steps=2))
    assert held.charged_epsilon > 0


def test_less_than_was_reserved_gives_the_rest_back(fresh: BudgetState) -> None:
    held = held_after(fresh, key(0), sgd(3.5, steps=5))
    assert commit(held, key(0), sgd(3.5, steps=2)).committed == sgd(3.5, steps=2)


def test_a_round_that_does_not_fit_is_refused_with_what_would(fresh: BudgetState) -> None:
    with pytest.raises(Refused) as refusal:
        held_after(fresh, key(0), sgd(2.0, steps=20))
    message = str(refusal.value)
    assert message.startswith(
        "budget of cardiology: round 0 of job abababababab would bring epsilon from 0.000 to 4.595"
    )
    assert "the cap is 2 at delta 0.001, 0.000 is spent, 2.000 is left" in message
    assert "0 such rounds still fit; all of it would take a cap of 4.596." in message


def test_a_job_that_does_not_fit_is_refused_with_the_noise_that_would(fresh: BudgetState) -> None:
    with pytest.raises(Refused, match="20 rounds would bring") as refusal:
        require_job(fresh, JOB, PURPOSE, plan_dp(2.0), 20)
    fitting = noise_multiplier_that_fits(fresh, plan_dp(2.0), 20)
    assert fitting is not None
    assert f"With all 20 rounds, a noise multiplier of at least {fitting:g} would fit." in str(refusal.value)
    assert require_job(fresh, JOB, PURPOSE, plan_dp(fitting), 20).fits
    with pytest.raises(Refused):
        require_job(fresh, JOB, PURPOSE, plan_dp(fitting - 0.01), 20)


def test_the_cap_that_is_named_is_the_cap_that_suffices(fresh: BudgetState) -> None:
    needed = what_if(fresh, sgd(2.0), 20).epsilon_needed
    assert what_if(first_budget(None, BudgetPolicy("cardiology", needed, 1e-3, "patient")), sgd(2.0), 20).fits
    assert not what_if(
        first_budget(None, BudgetPolicy("cardiology", needed - 1e-6, 1e-3, "patient")), sgd(2.0), 20
    ).fits


def test_when_nothing_can_fit_any_more_it_says_so() -> None:
    state = first_budget(None, BudgetPolicy("cardiology", 1e-3, 1e-12, "patient"))
    with pytest.raises(Refused, match="no noise multiplier would fit"):
        require_job(state, JOB, PURPOSE, plan_dp(2.0, delta=1e-12), 10_000)


def test_one_person_alone_cannot_change_a_budget(fresh: BudgetState) -> None:
    for epsilon in (1.0, 2.0, 3.0):
        with pytest.raises(Refused, match=r"set to epsilon 2 at delta 0\.001.*two administrators"):
            first_budget(fresh, BudgetPolicy("cardiology", epsilon, 1e-3, "patient"))


@pytest.mark.parametrize(
    ("population", "epsilon", "delta", "complaint"),
    [
        ("Cardiology!", 1.0, 1e-5, "is not a name"),
        ("cardiology", 0.0, 1e-5, "epsilon is 0"),
        ("cardiology", float("nan"), 1e-5, "epsilon is nan"),
        ("cardiology", 70_333.0, 1e-5, "epsilon is 70333"),
        ("cardiology", 1.0, 0.0, "delta is 0"),
        ("cardiology", 1.0, 0.5, "delta is 0.5"),
    ],
)
def test_a_budget_that_protects_nobody_is_refused(
    population: str, epsilon: float, delta: float, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        BudgetPolicy(population, epsilon, delta, "patient")


def test_a_budget_protects_a_record_or_a_patient() -> None:
    with pytest.raises(ConfigError, match="unit is 'hospital'"):
        BudgetPolicy("cardiology", 1.0, 1e-5, "hospital")  # type: ignore[arg-type]


# -- what a job is approved for ------------------------------------------------------------------------------------


def refused(code: str, state: BudgetState, of: RoundKey, vector: tuple[float, ...]) -> str:
    with pytest.raises(BudgetRefusal) as found:
        reserve(state, of, vector)
    assert found.value.code == code
    return str(found.value)


def test_no_round_without_an_approval(fresh: BudgetState) -> None:
    assert "job abababababab is not approved" in refused("not-approved", fresh, key(0), sgd(3.5))
    other = grant(fresh, "cd" * 32, sgd(3.5), 2, PURPOSE)
    assert "is not approved" in refused("not-approved", other, key(0), sgd(3.5))
    costly = grant(fresh, JOB, sgd(6.5), 2, PURPOSE)
    assert "approved for rounds of another cost" in refused("not-approved", costly, key(0), sgd(3.5))


def test_a_job_has_the_rounds_it_was_approved_for_and_no_more_however_they_end(fresh: BudgetState) -> None:
    vector = sgd(3.5)
    state = grant(fresh, JOB, vector, 2, PURPOSE)
    at_most = what_if(fresh, vector, 2).epsilon_after
    state = commit(reserve(state, key(1), vector), key(1), vector)
    state = refund(reserve(state, key(2), vector), key(2))
    assert state.rounds_left(JOB) == 1, "a refunded round was none"
    state = reserve(state, key(3), vector)
    why = refused("grant-used-up", state, key(4), vector)
    assert "job abababababab has used the 2 rounds it was approved for" in why
    state = commit(state, key(3), vector)
    refused("grant-used-up", state, key(5), vector)
    assert state.charged_epsilon == at_most
    assert what_if(state, vector, 1).fits, "the budget would have had room"


def test_a_sub_cap_that_is_tightened_after_an_approval_stops_its_rounds(fresh: BudgetState) -> None:
    """Each round is held against the caps as they are when it is reserved, not as they were when it was approved."""
    vector, other = sgd(3.5), "cd" * 32
    one = rdp_epsilon(vector, fresh.policy.delta)
    granted = grant(fresh, JOB, vector, 3, PURPOSE)
    state = change_sub_cap(granted, None, one)  # of every single job
    state = commit(reserve(state, key(1), vector), key(1), vector)
    assert "one job may spend" in refused("over-sub-cap", state, key(2), vector)
    both = grant(granted, other, vector, 3, PURPOSE)
    both = change_sub_cap(both, PURPOSE, rdp_epsilon(times(vector, 2), fresh.policy.delta))
    both = reserve(both, key(1), vector)
    both = commit(reserve(both, RoundKey(other, 1), vector), RoundKey(other, 1), vector)
    for next_ in (key(2), RoundKey(other, 2)):
        assert "the purpose 'heart disease' may spend" in refused("over-sub-cap", both, next_, vector)
    assert reserve(change_sub_cap(both, PURPOSE, None), key(2), vector).rounds_left(JOB) == 1


def test_a_refusal_takes_an_approval_back_and_nothing_that_is_reserved(fresh: BudgetState) -> None:
    vector = sgd(3.5)
    held = reserve(grant(fresh, JOB, vector, 3, PURPOSE), key(1), vector)
    state = withdraw(held, JOB)
    assert (state.reserved, state.rounds_left(JOB)) == (held.reserved, 0)
    assert "job abababababab is not approved" in refused("not-approved", state, key(2), vector)
    assert reserve(state, key(1), vector) is state, "a retry after a crash"
    spent = commit(state, key(1), vector)
    assert spent.charged_epsilon == held.charged_epsilon
    assert withdraw(spent, JOB) is spent
    refused("not-approved", refund(state, key(1)), key(2), vector)
    assert grant(spent, JOB, vector, 2, PURPOSE).rounds_left(JOB) == 2


def test_an_approval_is_of_rounds_that_fit_and_given_once(fresh: BudgetState) -> None:
    with pytest.raises(BudgetRefusal, match="20 rounds would bring epsilon"):
        grant(fresh, JOB, sgd(2.0), 20, PURPOSE)
    state = grant(fresh, JOB, sgd(3.5), 2, PURPOSE)
    with pytest.raises(Refused, match="is approved already"):
        grant(state, JOB, sgd(3.5), 5, PURPOSE)


@pytest.mark.parametrize(
    ("changes", "code", "complaint"),
    [
        ({"unit": "record"}, "unit", "it protects each patient, and the job protects each record"),
        ({"delta": 2e-3}, "delta", "the job's delta is 0.002, and the budget allows 0.001"),
    ],
)
def test_a_job_on_other_terms_is_refused_whatever_it_costs(
    fresh: BudgetState, changes: dict[str, object], code: str, complaint: str
) -> None:
    for check in (
        lambda: check_terms(fresh.policy, plan_dp(1000.0, **changes)),
        lambda: require_job(fresh, JOB, PURPOSE, plan_dp(1000.0, **changes), 1),
    ):
        with pytest.raises(BudgetRefusal, match=complaint) as found:
            check()
        assert found.value.code == code


def test_a_smaller_delta_than_the_budgets_is_counted_at_the_budgets(fresh: BudgetState) -> None:
    smaller = require_job(fresh, JOB, PURPOSE, plan_dp(6.5, delta=1e-9), 1)
    assert smaller == require_job(fresh, JOB, PURPOSE, plan_dp(6.5), 1)
