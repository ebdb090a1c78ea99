"""A silo's validation sums: how far one unit moves them, and what covers them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.dp.engine import losses_of
from privacy.dp.randomness import Randomness
from privacy.dp.validation import covered_sums, held_out_sums
from privacy.errors import InternalError
from privacy.mechanism import DpSgd, Metrics
from privacy.metrics import SENSITIVITY

METRICS = Metrics(noise_multiplier=3.0, loss_bound=2.0, most_units=1000)
VALUES = st.floats(-1e30, 1e30) | st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0])


def sums_of(logits: np.ndarray, labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    given, answers = torch.from_numpy(logits), torch.from_numpy(labels)
    correct = (given.argmax(dim=1) == answers).double().numpy()
    return held_out_sums(losses_of(given, answers).double().numpy(), correct, units, METRICS)


def test_sums_are_what_they_say() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [5.0, 0.0], [0.0, 50.0]])
    labels, units = np.array([0, 0, 0, 0]), np.array([0, 0, 1, 2])
    right, wrong = np.log1p(np.exp(-2.0)), 2 + np.log1p(np.exp(-2.0))
    losses = [(min(right, 2) + min(wrong, 2)) / 2, np.log1p(np.exp(-5.0)), 2.0]  # of unit 0, 1, and 2: cut off
    found = sums_of(logits, labels, units)
    assert found[0] == pytest.approx(0.5 + 1 + 0 - 1.5)
    assert found[1] == pytest.approx(sum(losses) / 2 - 1.5)
    assert found[2] == 1.5


@given(st.data())
def test_one_unit_with_all_its_records_moves_the_sums_by_no_more_than_was_promised(data: st.DataObject) -> None:
    """Whatever the model answers for it, also where that is no number."""
    records = data.draw(st.integers(2, 12))
    logits = np.array(data.draw(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=records, max_size=records)))
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=records, max_size=records)))
    units = np.array(data.draw(st.lists(st.integers(0, 3), min_size=records, max_size=records)))
    gone = data.draw(st.sampled_from(sorted(set(units.tolist()))))
    kept = units != gone
    whole = sums_of(logits, labels, units)
    without = sums_of(logits[kept], labels[kept], units[kept]) if kept.any() else np.zeros(3)
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole - without) <= SENSITIVITY * (1 + 1e-9)


def mechanism(**changes: object) -> DpSgd:
    fields = {
        "clip_l2": 1.0, "noise_multiplier": 2.0, "sampling_rate": 0.5, "steps_per_round": 1,
        "expected_batch_size": 16.0, "unit": "record", "delta": 1e-3, "metrics": METRICS, **changes,
    }  # fmt: skip
    return DpSgd(**fields)


SUMS = np.array([40.0, -17.5, 60.0])


def test_local_noise_has_the_promised_size() -> None:
    bits = Randomness.deterministic_for_tests(1)
    found = np.array([covered_sums(SUMS, mechanism(), 16, bits) for _ in range(4000)])
    assert found.dtype == np.float32
    assert abs((found - SUMS).std() / (3.0 * SENSITIVITY) - 1) < 0.03
    assert np.abs((found - SUMS).mean(axis=0)).max() < 0.25


def test_shares_of_noise_make_up_the_promised_size_and_are_read_with_the_right_sign() -> None:
    dp = mechanism(noise="shared", noise_shares=3)
    grid, reach = dp.metrics_grid(16), dp.metrics_tensor(16).update_range
    drawn = np.array([[covered_sums(SUMS, dp, 16, None) for _ in range(3)] for _ in range(1500)], np.float64)
    assert covered_sums(SUMS, dp, 16, None).dtype == np.uint16
    totals = ((drawn * 2 / grid.top - 1) * reach).sum(axis=1)
    assert dp.metrics_deviation(3, 16) > 3.0 * SENSITIVITY
    assert abs((totals - 3 * SUMS).std() / dp.metrics_deviation(3, 16) - 1) < 0.04
    assert np.abs(totals.mean(axis=0) - 3 * SUMS).max() < 0.4


def test_no_two_rounds_have_the_same_noise_and_a_plan_without_has_none() -> None:
    torch.manual_seed(42)
    one = covered_sums(SUMS, mechanism(), 16, None)
    torch.manual_seed(42)
    assert not np.isclose(one, covered_sums(SUMS, mechanism(), 16, None)).any()
    with pytest.raises(InternalError, match="asked of a plan without"):
        covered_sums(SUMS, mechanism(metrics=None), 16, None)
