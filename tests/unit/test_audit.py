"""The audit's bound is a bound, and its attack tells a broken engine from a sound one."""

import math

import numpy as np
import pytest
import torch

from federation.audit.bench import audit
from federation.audit.bound import Rule, judged, lower_bound
from federation.audit.game import Game
from federation.audit.plants import SUBJECTS
from privacy.accounting import dp_sgd_event, noise_multiplier_for, rdp_epsilon, rdp_vector
from privacy.errors import InternalError
from privacy.mechanism import DpSgd

DELTA = 1e-3
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def column(values):
    return np.asarray(values, dtype=np.float64)[:, None]


def test_a_perfect_test_of_n_runs_shows_what_n_runs_can_show():
    """No error in n runs: each rate is at most 1 - (error / 2)^(1/n), exactly (Clopper and Pearson with 0 events)."""
    n, confidence = 200, 0.95
    most = 1 - ((1 - confidence) / 2) ** (1 / n)
    found = judged(Rule(0, 0.5), column(np.zeros(n)), column(np.ones(n)), DELTA, confidence)
    assert found == pytest.approx(math.log((1 - most - DELTA) / most))


def test_scores_that_say_nothing_show_nothing():
    bits = np.random.default_rng(1)
    found = [lower_bound(bits.normal(size=(400, 2)), bits.normal(size=(400, 2)), 0.0, 0.95) for _ in range(40)]
    assert sum(bound > 0 for bound in found) <= 6  # each is above zero with probability at most 0.05
    assert max(found) < 0.5


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_randomised_response_is_bounded_from_below_and_not_above(epsilon):
    """Its epsilon is known exactly: the bound comes near it, and is above it no more often than it may be."""
    bits, runs = np.random.default_rng(2), 4000
    truth = 1 / (1 + math.exp(-epsilon))
    found = []
    for _ in range(60):
        absent = column(bits.random(runs) > truth)
        present = column(bits.random(runs) <= truth)
        found.append(lower_bound(absent, present, 0.0, 0.95))
    assert sum(bound > epsilon for bound in found) <= 9  # 3 are expected at most; 9 have a chance below 1e-3
    assert 0.7 * epsilon < np.median(found) < epsilon


def test_any_order_of_runs_and_any_statistic_will_do():
    bits = np.random.default_rng(3)
    noise, apart = bits.normal(size=(400, 1)), bits.normal(size=(400, 1))
    absent, present = np.hstack([noise, apart]), np.hstack([bits.permutation(noise), apart + 9])
    assert lower_bound(absent, present, DELTA, 0.95) > 3


def test_unequal_numbers_of_runs_are_refused():
    with pytest.raises(InternalError, match="3 runs without and 8 with the canary"):
        lower_bound(column(range(3)), column(range(8)), DELTA, 0.95)


@pytest.fixture(scope="module")
def game():
    """Made-up records of unit length; a claim of one half, so that few runs are enough."""
    features = torch.nn.functional.normalize(torch.randn(12, 24, generator=torch.Generator().manual_seed(5)), dim=1)
    mechanism = DpSgd(
        clip_l2=0.5, noise_multiplier=noise_multiplier_for(0.5, DELTA, 0.5, 4), sampling_rate=0.5, steps_per_round=2,
        expected_batch_size=6.0, unit="record", delta=DELTA,
    )  # fmt: skip
    return Game(mechanism, 2, features, torch.arange(12) % 2)


def claimed(game):
    return rdp_epsilon(rdp_vector(dp_sgd_event(game.mechanism, game.rounds * game.mechanism.steps_per_round)), DELTA)


def test_the_canary_points_where_no_other_record_does(game):
    assert float((game.known.double() @ game.direction).abs().max()) < 1e-6
    assert game.direction.norm() == pytest.approx(1)
    present, absent = game.dataset(present=True), game.dataset(present=False)
    assert present.units == absent.units == 13
    assert not absent.features[-1].any()


@pytest.mark.parametrize("name", ["as shipped", "as shipped, nobody else"])
def test_the_engine_as_shipped_stays_under_its_claim(game, name):
    assert audit(BY_NAME[name], game, 150, 0.95) < claimed(game)


@pytest.mark.parametrize("name", ["no noise", "a known seed", "no clipping", "empty samples skipped"])
def test_planted_bugs_show(game, name):
    assert BY_NAME[name].planted
    assert audit(BY_NAME[name], game, 250, 0.95) > claimed(game)


def test_a_planted_bug_is_gone_afterwards(game):
    from privacy.dp import engine
    from privacy.dp.noise import GaussianNoise

    honest = GaussianNoise.add_, engine.ClippedGradients.sum
    for subject in SUBJECTS:
        audit(subject, game, 4, 0.95)
    assert honest == (GaussianNoise.add_, engine.ClippedGradients.sum)
