"""Known answers, strict events, exact sums, calibration."""

import logging
import math
import subprocess
import sys
from importlib.metadata import version

import dp_accounting
import numpy as np
import numpy.typing as npt
import pytest
from dp_accounting.rdp import compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from privacy.accounting import (
    ACCOUNTANT,
    GRID,
    LEAST_PROBABILITY,
    ORDERS,
    UNBOUNDED,
    ZERO,
    Composed,
    Gaussian,
    PoissonSampled,
    SelfComposed,
    SharedGaussian,
    add,
    as_dp_event,
    by_record_event,
    check_vector,
    decode_event,
    dp_sgd_event,
    encode_event,
    from_dp_event,
    noise_multiplier_for,
    pld_epsilon,
    rdp_epsilon,
    rdp_vector,
    sampled_gaussian,
    times,
    unshared,
)
from privacy.errors import ConfigError, InternalError, ProtocolError, VerificationError
from privacy.ledger.figures import check_charge, total_pld
from privacy.ledger.parts import Charge
from privacy.mechanism import DpSgd


def plan_dp(sigma: float, q: float) -> DpSgd:
    return DpSgd(
        clip_l2=1.0,
        noise_multiplier=sigma,
        sampling_rate=q,
        steps_per_round=1,
        expected_batch_size=10.0,
        unit="record",
        delta=1e-5,
    )


def sgd(sigma: float, q: float = 0.5, steps: int = 20) -> SelfComposed:
    return SelfComposed(
        count=steps, event=PoissonSampled(sampling_probability=q, event=Gaussian(noise_multiplier=sigma))
    )


@pytest.mark.parametrize(("sigma", "rdp", "pld"), [(2.0, 4.60, 4.00), (3.5, 2.20, 1.92), (6.5, 1.03, 0.89)])
def test_known_answers_of_the_field_notes(sigma: float, rdp: float, pld: float) -> None:
    event = sgd(sigma)
    assert rdp_epsilon(rdp_vector(event), 1e-3) == pytest.approx(rdp, abs=0.005)
    assert pld_epsilon(event, 1e-3) == pytest.approx(pld, abs=0.005)


def test_the_gaussian_mechanism_has_its_closed_form() -> None:
    vector = rdp_vector(Gaussian(noise_multiplier=3.0))
    for order, value in zip(ORDERS, vector, strict=True):
        assert order / 18 <= value <= order / 18 + GRID


def test_the_conversion_is_dp_accountings() -> None:
    vector = rdp_vector(sgd(2.0))
    theirs, _ = compute_epsilon(ORDERS, vector, 1e-5)
    assert rdp_epsilon(vector, 1e-5) == pytest.approx(float(theirs), rel=1e-12)


def test_pld_is_tighter_and_not_given_where_nothing_is_private() -> None:
    assert pld_epsilon(sgd(0.5, steps=100), 1e-5) is None
    assert rdp_epsilon(rdp_vector(sgd(0.5, steps=100)), 1e-5) > 50


def test_the_pld_figure_of_many_events_counts_each_whether_equal_ones_are_one_object_or_not() -> None:
    one, other = sgd(4.0, steps=3), sgd(5.0, steps=2)
    many = [one, other, one, sgd(4.0, steps=3), sgd(5.0, steps=2), Composed(events=(one, sgd(4.0, steps=1)))]
    right = pld_epsilon(Composed(events=(sgd(4.0, steps=13), sgd(5.0, steps=4))), 1e-3)
    assert right is not None
    assert total_pld(many, 1e-3, renyi=1.0) == pytest.approx(right, rel=1e-12)
    assert total_pld(many, 1e-3, renyi=50.1) is None
    assert total_pld([], 1e-3, renyi=0.0) == 0.0


@pytest.mark.parametrize(
    ("sigma", "q", "delta"),
    [
        (0.3, 1 - 1e-15, 1e-5),  # the accountant raises ValueError: it has no grid for these losses
        (1.0, 1 - 1e-16, 1e-16),  # and here it says infinity
        (0.3, 1e-3, 1e-17),
    ],
)
def test_where_the_pld_accountant_has_no_finite_figure_none_is_given(sigma: float, q: float, delta: float) -> None:
    """Such an event can be charged, and what is charged replays: nobody's figure stands in for the missing one."""
    event = sampled_gaussian(sigma, q, 1)
    assert math.isfinite(rdp_epsilon(rdp_vector(event), delta))
    assert pld_epsilon(event, delta) is None
    charge = Charge.of(event, delta)
    check_charge(charge)
    with pytest.raises(VerificationError, match=r"epsilon_pld: 0\.0 is stated, None is right"):
        check_charge(charge.model_copy(update={"epsilon_pld": 0.0}))


def test_figures_too_large_for_a_number_are_unbounded_and_cost_more_than_any_budget() -> None:
    vector = rdp_vector(sgd(0.01, steps=1_000_000))
    assert vector[-1] == UNBOUNDED
    assert rdp_epsilon(times(vector, 1_000_000), 1e-5) > 1e5


def test_nothing_spent_is_epsilon_zero() -> None:
    assert rdp_epsilon(ZERO, 1e-9) == 0.0


def test_no_warning_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for q in (0.499999, 0.5, 0.500001, 0.9, 1.0, 1e-4, 1 - 1e-16, LEAST_PROBABILITY):
            for sigma in (0.3, 2.0, 130.0, 1e6):
                rdp_vector(sgd(sigma, q=q, steps=1))
    assert not caplog.records


EVENTS = st.one_of(
    st.builds(Gaussian, noise_multiplier=st.floats(0.3, 50)),
    st.builds(sgd, st.floats(0.3, 50), st.floats(1e-4, 1), st.integers(1, 1000)),
).flatmap(lambda event: st.sampled_from([event, Composed(events=(event, sgd(2.0)))]))


@given(EVENTS)
@settings(max_examples=60, deadline=None)
def test_an_event_survives_json_and_dp_accounting(event: Gaussian | SelfComposed | Composed) -> None:
    assert decode_event(encode_event(event)) == event
    assert from_dp_event(as_dp_event(event)) == event


@given(EVENTS, EVENTS, st.integers(1, 50))
@settings(max_examples=15, deadline=None)
def test_composition_is_exact_in_any_order(first: SelfComposed, second: SelfComposed, count: int) -> None:
    a, b = check_vector(rdp_vector(first)), check_vector(rdp_vector(second))
    total = ZERO
    for _ in range(count):
        total = add(total, a)
    assert total == times(a, count)
    assert add(add(total, b), a) == add(b, add(a, total))


VECTORS = st.lists(st.integers(0, 2**52), min_size=len(ORDERS), max_size=len(ORDERS)).map(
    lambda steps: tuple(step * GRID for step in steps)
)


@given(VECTORS, VECTORS, st.integers(0, 2**20))
@settings(max_examples=200, deadline=None)
def test_vectors_made_of_checked_ones_are_what_any_others_are(a, b, count):
    """Order by order the plain sum, cut off; and they are on the grid, although nobody looks again."""
    one, other = check_vector(a), check_vector(b)
    total, many = add(one, other), times(one, count)
    assert total == add(a, b) == tuple(min(x + y, UNBOUNDED) for x, y in zip(a, b, strict=True))
    assert many == times(a, count) == tuple(min(x * count, UNBOUNDED) for x in a)
    for vector in (total, many):
        assert check_vector(tuple(vector)) == vector == check_vector(vector)
        assert rdp_epsilon(tuple(vector), 1e-5) == rdp_epsilon(vector, 1e-5)


def test_vectors_that_nobody_checked_stay_so() -> None:
    one = check_vector((GRID,) * len(ORDERS))
    for odd in (add(one, (0.1,) * len(ORDERS)), times((0.1,) * len(ORDERS), 3), times(one, -1)):
        with pytest.raises(InternalError, match="Renyi vector"):
            check_vector(odd)
    with pytest.raises(ValueError, match="zip"):
        add(one, one[1:])


def sampled(q: float) -> dict[str, object]:
    noise = {"kind": "gaussian", "noise_multiplier": 2.0}
    return {"kind": "poisson-sampled", "sampling_probability": q, "event": noise}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"kind": "laplace", "noise_multiplier": 2.0}, "kind"),
        ({"module_name": "os", "class_name": "system"}, "kind"),
        ({"kind": "gaussian", "noise_multiplier": 0.0}, "noise_multiplier"),
        ({"kind": "gaussian", "noise_multiplier": math.inf}, "noise_multiplier"),
        (sampled(5e-324), "sampling_probability"),
        (sampled(9e-31), "sampling_probability"),
        ({"kind": "gaussian", "noise_multiplier": "2"}, "noise_multiplier"),
        ({"kind": "gaussian", "noise_multiplier": 2.0, "extra": 1}, "extra"),
        ({"kind": "self-composed", "count": 10**7, "event": {"kind": "gaussian", "noise_multiplier": 2.0}}, "count"),
        ({"kind": "self-composed", "count": True, "event": {"kind": "gaussian", "noise_multiplier": 2.0}}, "count"),
        ({"kind": "composed", "events": []}, "events"),
        ({"kind": "composed", "events": [{"kind": "composed", "events": []}]}, "events"),
        ({"kind": "composed", "events": [{"kind": "gaussian", "noise_multiplier": 2.0}] * 65}, "events"),
        (None, "dictionary"),
    ],
)
def test_what_is_outside_the_grammar_is_refused_by_name(value: object, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        decode_event(value)


def test_an_engine_that_recorded_another_mechanism_is_our_bug() -> None:
    with pytest.raises(InternalError, match="LaplaceDpEvent"):
        from_dp_event(dp_accounting.LaplaceDpEvent(2.0))


def test_a_vector_that_is_not_on_the_grid_is_refused() -> None:
    with pytest.raises(InternalError, match="Renyi vector"):
        check_vector((0.1, *ZERO[1:]))
    with pytest.raises(InternalError, match="Renyi vector"):
        check_vector(ZERO[1:])


def test_a_plan_that_cannot_be_priced_is_the_operators() -> None:
    dp = DpSgd(
        clip_l2=1.0,
        noise_multiplier=0.001,
        sampling_rate=0.5,
        steps_per_round=1,
        expected_batch_size=10.0,
        unit="record",
        delta=1e-3,
    )
    with pytest.raises(ConfigError, match="noise_multiplier"):
        dp_sgd_event(dp, 1)


def test_calibration_is_the_smallest_that_fits() -> None:
    sigma = noise_multiplier_for(2.0, 1e-3, 0.5, 20)
    assert rdp_epsilon(rdp_vector(sgd(sigma)), 1e-3) <= 2.0
    assert rdp_epsilon(rdp_vector(sgd(sigma - 0.0001)), 1e-3) > 2.0


def test_calibration_says_what_cannot_be_reached() -> None:
    with pytest.raises(ConfigError, match="1000000 steps at q=1"):
        noise_multiplier_for(1e-9, 1e-12, 1.0, 1_000_000)


def test_the_recorded_accountant_is_the_one_installed() -> None:
    assert ACCOUNTANT.startswith(f"dp-accounting {version('dp-accounting').rpartition('.')[0]} ")


def test_importing_the_module_does_not_import_the_accountants() -> None:
    code = "import sys, privacy.accounting; print([m for m in ('dp_accounting', 'scipy', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("records", [1, 2, 5, 12])
@pytest.mark.parametrize("q", [0.02, 0.3, 1.0])
def test_a_person_with_many_records_by_a_promise_to_each_is_priced_from_above(records, q):
    """At order 2 the truth is a sum: records are drawn one by one, j of them with a binomial chance, and move the sum
    by j clips: E[(sum_j b_j exp((2jx - j^2) / 2 s^2))^2] = sum_ij b_i b_j exp(ij / s^2).
    """
    dp = plan_dp(3.0, q)
    event = by_record_event(dp, 1, records)
    assert event is not None
    drawn = [math.comb(records, j) * q**j * (1 - q) ** (records - j) for j in range(records + 1)]
    truth = math.log(sum(a * b * math.exp(i * j / 9) for i, a in enumerate(drawn) for j, b in enumerate(drawn)))
    found = rdp_vector(event)[ORDERS.index(2.0)]
    assert truth <= found + 1e-9
    if records == 1:
        assert event.event.sampling_probability == pytest.approx(q)
        assert found == pytest.approx(truth, abs=1e-8)


def test_a_promise_to_records_is_worth_little_to_a_patient_with_eight():
    dp = plan_dp(3.0, 0.3)
    by_patient = rdp_epsilon(rdp_vector(dp_sgd_event(dp, 10)), 1e-5)
    event = by_record_event(dp, 10, 8)
    assert event is not None
    by_record = rdp_epsilon(rdp_vector(event), 1e-5)
    assert by_record > 10 * by_patient
    assert by_record_event(dp, 10, 301) is None


# -- shared noise ------------------------------------------------------------------------------------------------------


def shared(sigma: float, q: float = 0.5, steps: int = 1, shares: int = 3) -> SelfComposed:
    noise = SharedGaussian(noise_multiplier=sigma, shares=shares)
    return SelfComposed(count=steps, event=PoissonSampled(sampling_probability=q, event=noise))


def divergence(p: npt.NDArray[np.float64], r: npt.NDArray[np.float64], order: float) -> float:
    """Of one finite distribution from another, by its definition."""
    both = (p > 0) & (r > 0)
    return float(logsumexp(order * np.log(p[both]) + (1 - order) * np.log(r[both]))) / (order - 1)


@pytest.mark.parametrize("shift", [(3, 0), (3, -4), (1, 1), (5, 0), (4, -3)])
@pytest.mark.parametrize("q", [0.01, 0.3, 1.0])
def test_no_discrete_gaussian_on_a_lattice_costs_more_than_the_figure(shift: tuple[int, int], q: float) -> None:
    """In two dimensions, summed term by term, with the noise a few grid steps wide so that the lattice shows."""
    length, deviation = math.hypot(*shift), 2.5
    axis = np.arange(-70, 71)
    squares = axis[:, None] ** 2 + axis[None, :] ** 2
    moved = (axis[:, None] - shift[0]) ** 2 + (axis[None, :] - shift[1]) ** 2
    here, there = (np.exp(-each / (2 * deviation**2)) for each in (squares, moved))
    without, with_unit = here / here.sum(), (1 - q) * here / here.sum() + q * there / there.sum()
    vector = rdp_vector(shared(deviation / length, q))
    for order, figure in zip(ORDERS, vector, strict=True):
        if order * max(shift) > 45:
            break  # the lattice is cut at 70 steps
        found = [divergence(with_unit, without, order), divergence(without, with_unit, order)]
        assert max(found) <= figure + 1e-9, order
        if order.is_integer():
            assert max(found) == pytest.approx(figure, rel=1e-6, abs=1e-9), f"order {order}: the figure is exact"


def test_shared_noise_costs_what_the_next_whole_order_does() -> None:
    vector, continuous = rdp_vector(shared(2.0)), rdp_vector(sgd(2.0, steps=1))
    for order, figure in zip(ORDERS, vector, strict=True):
        assert figure == continuous[ORDERS.index(math.ceil(order))]
    assert rdp_vector(Composed(events=(sgd(2.0, steps=1), shared(2.0)))) == pytest.approx(times(vector, 2))


def test_shared_noise_has_no_pld_figure_and_keeps_its_form() -> None:
    event = shared(2.0, steps=5)
    assert pld_epsilon(event, 1e-5) is None
    assert pld_epsilon(Composed(events=(sgd(2.0), event)), 1e-5) is None
    assert decode_event(encode_event(event)) == event
    for wrong in ({"shares": 1}, {"shares": 10**6}, {"noise_multiplier": 0.0}):
        noise = {"kind": "shared-discrete-gaussian", "noise_multiplier": 1.0, "shares": 2, **wrong}
        with pytest.raises(ProtocolError):
            decode_event(noise)


def test_alone_a_silo_has_the_root_of_its_share() -> None:
    alone = unshared(shared(3.0, shares=9))
    assert isinstance(alone.event, PoissonSampled)
    assert alone.event.event == SharedGaussian(noise_multiplier=1.0, shares=9)
    assert unshared(sgd(2.0)) == sgd(2.0)
    assert rdp_epsilon(rdp_vector(alone), 1e-5) > 2 * rdp_epsilon(rdp_vector(shared(3.0, shares=9)), 1e-5)


def test_shared_noise_is_calibrated_by_its_own_price() -> None:
    sigma = noise_multiplier_for(2.0, 1e-3, 0.5, 20, shares=3)
    assert rdp_epsilon(rdp_vector(shared(sigma, steps=20)), 1e-3) <= 2.0
    assert rdp_epsilon(rdp_vector(shared(sigma - 0.0001, steps=20)), 1e-3) > 2.0
    assert 0 <= sigma - noise_multiplier_for(2.0, 1e-3, 0.5, 20) < 0.02
