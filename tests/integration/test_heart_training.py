"""The demo's job on the real encoder: two small hospitals, one round. The figures are the benchmark's, not a test's."""

import numpy as np
import pytest

from federation.heart.bench import outcome_of, prepare, run_federation, verified_epsilon
from federation.heart.hospitals import job_file, load_hospital
from privacy.dp.randomness import Randomness
from privacy.errors import ConfigError
from privacy.tasks import Classification
from runtime.config import load_config
from silo_agent.job_file import JobFile


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heart")
    job = load_config(JobFile, job_file(), "", {})
    cohort = job.cohort.model_copy(update={"minimum": 2, "tolerated_colluders": 0})
    datasets = {name: load_hospital(name, folder / name) for name in ("switzerland", "va")}
    normaliser = job.normaliser.model_copy(update={"count": 60})
    return prepare(job.model_copy(update={"cohort": cohort, "normaliser": normaliser}), datasets)


def test_the_job_trains_lora_and_head_within_two_epsilon(prepared):
    plan, _, start = prepared
    assert isinstance(plan.task, Classification)
    assert {spec.name.rsplit(".", 2)[1] for spec in plan.tensors} == {"lora_B", "classifier"}
    assert plan.values == start.size == 2 * 384 + 2 * 2 * 384
    assert 1.9 < verified_epsilon(plan, plan.rounds * plan.dp.steps_per_round) <= 2.0
    assert verified_epsilon(plan, 2 * plan.rounds * plan.dp.steps_per_round) > 2.0


def test_the_preflight_passes_on_the_real_encoder(prepared):
    plan, trainings, _ = prepared
    assert trainings["switzerland"].self_test.values == plan.values


def test_rounds_run_and_every_step_is_charged(prepared):
    plan, trainings, start = prepared
    short = plan.model_copy(update={"rounds": 1})
    evaluations, epsilon = run_federation(short, trainings, start, seed=0)
    outcome = outcome_of(evaluations)
    assert epsilon == dict.fromkeys(("switzerland", "va"), verified_epsilon(plan, plan.dp.steps_per_round))
    assert outcome.accuracy.keys() == trainings.keys()
    updates = [training.run_round(start).update for training in trainings.values()]
    limits = np.concatenate([np.full(spec.size, spec.update_range) for spec in plan.tensors])
    assert all((np.abs(update) < limits).all() for update in updates)  # the grid cuts nothing off


def test_a_seed_repeats_a_round_but_for_rounding(prepared):
    """Sums of floats may differ in their last bits from run to run; batches and noise may not differ at all."""
    _, trainings, start = prepared
    bits = [Randomness.deterministic_for_tests(seed) for seed in (0, 0, 1)]
    first, again, other = (trainings["va"].run_round(start, randomness=bit).update for bit in bits)
    assert np.linalg.norm(first - again) < 1e-3 * np.linalg.norm(first)
    assert np.linalg.norm(first - other) > 0.5 * np.linalg.norm(first)


def test_a_zero_head_knows_nothing(prepared):
    _, trainings, start = prepared
    outcome = outcome_of({name: training.evaluate(start) for name, training in trainings.items()})
    assert outcome.pooled_auc == 0.5


def test_no_epsilon_without_a_mechanism(prepared):
    plan, _, _ = prepared
    with pytest.raises(ConfigError, match="job 'heart': trains no model"):
        verified_epsilon(plan.model_copy(update={"dp": None}), 1)
