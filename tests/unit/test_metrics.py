"""What published validation sums say, read back from the grid, and how much noise is in them."""

import numpy as np
import pytest

from privacy.errors import InternalError, ProtocolError, VerificationError
from privacy.mechanism import DpSgd, Metrics
from privacy.metrics import SENSITIVITY, validation
from privacy.plan import JobPlan
from privacy.quantise import quantise
from privacy.transcript import Applied
from privacy.validation import read_validation, require_validation
from tests.lone_silo import dp_fields
from tests.parties import Cohort

METRICS = Metrics(noise_multiplier=2.0, loss_bound=4.0, most_units=500)


def test_figures_are_ratios_of_the_sums() -> None:
    found = validation((30.0, -20.0, 50.0), deviation=1.0, loss_bound=4.0)
    assert found is not None
    assert found.units == 100
    assert found.accuracy == pytest.approx(0.8)
    assert found.loss == pytest.approx(4 * 0.3)


def test_the_error_is_what_the_noise_makes_of_the_accuracy() -> None:
    bits = np.random.default_rng(0)
    sums, deviation = np.array([300.0, -200.0, 500.0]), 8.0
    exact = validation(sums.tolist(), deviation, 4.0)
    noisy = [validation((sums + bits.normal(0, deviation, 3)).tolist(), deviation, 4.0) for _ in range(4000)]
    spread = np.std([each.accuracy for each in noisy if each])
    assert exact is not None
    assert exact.accuracy_error == pytest.approx(spread, rel=0.06)


def test_too_few_units_to_stand_out_say_nothing() -> None:
    assert validation((1.0, 1.0, 3.9), deviation=1.0, loss_bound=4.0) is None
    assert validation((1.0, 1.0, -50.0), deviation=1.0, loss_bound=4.0) is None
    with pytest.raises(VerificationError, match="has 2 sums"):
        validation((1.0, 1.0), deviation=1.0, loss_bound=4.0)


@pytest.fixture(scope="module")
def plan() -> JobPlan:
    return JobPlan.model_validate(dp_fields(Cohort("east", "north", "west"), metrics=METRICS.model_dump()))


def test_the_sums_are_three_more_coordinates_and_not_trained(plan: JobPlan) -> None:
    assert plan.sent_values == plan.values + 3
    assert plan.sent[:-1] == plan.tensors
    assert JobPlan.decode(plan.encode()) == plan


def test_what_the_members_sent_is_read_back(plan: JobPlan) -> None:
    sent = np.array([[70.2, 30.5, 100.0], [-10.0, 12.0, 60.0], [0.0, 0.0, 0.0]], np.float32)
    ranges = np.full(3, plan.sent[-1].update_range, np.float32)
    sums = np.sum([quantise(each, ranges, 16).astype(np.int64) for each in sent], axis=0)
    found = read_validation(plan, sums.tolist(), members=3)
    assert found is not None
    assert found.units == pytest.approx(320, abs=0.1)
    assert found.accuracy == pytest.approx(0.5 + 60.2 / 320, abs=1e-3)
    assert found.loss == pytest.approx(4 * (0.5 + 42.5 / 320), abs=1e-2)
    with pytest.raises(InternalError, match="does not fit 1 summands"):
        read_validation(plan, [2**16, 0, 0], members=1)


def applied(plan: JobPlan, *sums: int) -> Applied:
    said = {"plan": plan.digest().hex(), "silo": "east", "round": 1, "ctx": "11" * 32, "adapter": "22" * 32}
    return Applied(validation=sums, **said)


def test_a_report_has_as_many_sums_as_the_plan_and_no_larger_ones(plan: JobPlan) -> None:
    require_validation(plan, applied(plan, 0, 3 * 65535, 7))
    for wrong in ((), (1, 2), (1, 2, 3 * 65535 + 1)):
        with pytest.raises(ProtocolError, match="its validation is not 3 sums of at most 196605"):
            require_validation(plan, applied(plan, *wrong))
    without = JobPlan.model_validate(dp_fields(Cohort("east", "north", "west")))
    require_validation(without, applied(without))
    assert read_validation(without, (), 3) is None
    with pytest.raises(ProtocolError, match="its validation is not 0 sums"):
        require_validation(without, applied(without, 1, 2, 3))


def mechanism(**changes: object) -> DpSgd:
    fields = {
        "clip_l2": 1.0, "noise_multiplier": 2.0, "sampling_rate": 0.5, "steps_per_round": 1,
        "expected_batch_size": 16.0, "unit": "record", "delta": 1e-3, "metrics": METRICS, **changes,
    }  # fmt: skip
    return DpSgd(**fields)


def test_ranges_hold_what_a_silo_may_send_with_its_noise() -> None:
    local, shared = mechanism(), mechanism(noise="shared", noise_shares=3)
    most = METRICS.most_units / 2
    assert local.metrics_tensor(16).update_range == most + 6 * 2.0 * SENSITIVITY
    grid = shared.metrics_grid(16)
    assert shared.metrics_tensor(16).update_range == pytest.approx(grid.top / 2 / grid.scale)
    assert shared.metrics_tensor(16).update_range > most


def test_noise_in_a_sum_of_four() -> None:
    assert mechanism().metrics_deviation(4, 16) == pytest.approx(2 * 2.0 * SENSITIVITY)
    shared = mechanism(noise="shared", noise_shares=3).metrics_deviation(4, 16)
    assert 1 < shared / (2.0 * SENSITIVITY * (4 / 3) ** 0.5) < 1.05, "rounding costs a little"
