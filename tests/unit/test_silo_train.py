import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import TypeAdapter

from privacy.dp.randomness import Randomness
from privacy.errors import ConfigError, Refused, VerificationError
from privacy.flatten import coordinate_ranges
from privacy.quantise import mean_from_sum, quantise
from silo_agent import train as train_module
from silo_agent.datasets import Dataset, Part
from silo_agent.planning import Parties, make_plan
from silo_agent.train import CachedExamples, Training, initial_vector, physical_batch, run_round
from tests.tiny import BITFIT, HEAD_ALONE, NORM, PREFIX, PROMPT, tiny_dataset, tiny_folder, tiny_job, tiny_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def planned(folder):
    job = tiny_job(dp={"epsilon": None, "noise_multiplier": 0.01, "expected_batch_size": 20.0, "steps_per_round": 8})
    return tiny_plan(job, folder)


@pytest.fixture(scope="module")
def training(planned, folder):
    return Training(*planned, tiny_dataset(), folder)


SAME = 1e-3  # threaded sums may differ in their last bits; of 200 pairs of fresh draws the closest differed by 0.09


def bits(seed=0):
    return Randomness.deterministic_for_tests(seed)


def relative_gap(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def test_an_update_is_new_minus_global_and_learns(planned, training):
    start = initial_vector(*planned)
    steps = []
    vector = start
    for seed in range(4):
        trained = training.run_round(vector, lambda done, planned: steps.append((done, planned)), bits(seed))
        vector = vector + trained.update
    assert trained.update.dtype == np.float32
    assert trained.update.shape == (planned[0].values,)
    assert trained.executed.steps == trained.executed.noise_additions == 8
    assert steps[:9] == [(i + 1, 8) for i in range(8)] + [(1, 8)]
    np.testing.assert_array_equal(training.vector(), training.vector())
    assert training.evaluate(start).accuracy < 0.7 < 0.9 < training.evaluate(vector).accuracy


def test_a_round_starts_from_the_global_adapter_alone(planned, training):
    start = initial_vector(*planned)
    first = training.run_round(start, randomness=bits()).update
    training.run_round(start + 1, randomness=bits(9))
    again = training.run_round(start, randomness=bits()).update
    assert relative_gap(again, first) < SAME


def test_two_rounds_draw_other_noise(planned, training):
    start = initial_vector(*planned)
    assert relative_gap(training.run_round(start).update, training.run_round(start).update) > 10 * SAME


def test_one_shot_and_prepared_agree_in_shape(planned, folder):
    trained = run_round(*planned, initial_vector(*planned), tiny_dataset(), folder)
    assert trained.update.shape == (planned[0].values,)
    assert "update" not in repr(trained)


def test_the_noise_has_the_promised_size(folder):
    """With nothing to learn from (no unit is ever drawn), an update is lr / batch * N(0, steps (sigma C)^2)."""
    job = tiny_job(
        adapter=HEAD_ALONE | {"head_learning_rate": 3.0},
        dp={"epsilon": None, "noise_multiplier": 5.0, "clip_l2": 2.0, "sampling_rate": 1e-9, "steps_per_round": 4},
    )
    plan, artifact = tiny_plan(job, folder)
    training = Training(plan, artifact, tiny_dataset(8), folder)
    updates = [training.run_round(initial_vector(plan, artifact)) for _ in range(60)]
    assert all(trained.executed.empty_steps == 4 for trained in updates)
    spread = np.std(np.concatenate([trained.update for trained in updates]))
    assert spread == pytest.approx(3.0 / 16.0 * 5.0 * 2.0 * 2.0, rel=0.1)
    reach = plan.tensors[0].update_range
    assert max(np.abs(trained.update).max() for trained in updates) < reach


def test_the_preflight_passes_and_leaves_the_model_alone(planned, folder):
    training, before = Training(*planned, tiny_dataset(), folder), initial_vector(*planned)
    report = training.self_test
    assert report.values == planned[0].values
    assert report.clipping == "hooks"
    np.testing.assert_array_equal(training.vector(), before)


@pytest.mark.parametrize(
    "changes", [{"adapter": change} for change in ({"method": "lora"}, BITFIT, NORM, PROMPT, PREFIX, HEAD_ALONE)]
)
def test_the_preflight_passes_for_every_method(folder, changes):
    plan, artifact = tiny_plan(tiny_job(**changes), folder)
    assert Training(plan, artifact, tiny_dataset(), folder).self_test.values == plan.values


def test_the_preflight_passes_for_a_model_s_own_head(folder):
    plan, artifact = tiny_plan(tiny_job(adapter={"head": "model"}, normaliser=None), folder)
    assert Training(plan, artifact, tiny_dataset(), folder).self_test.values == plan.values


def test_the_bias_of_attention_keys_is_refused(folder):
    """Softmax cancels it: it would carry noise alone, and a step in float32 does not move it."""
    plan, artifact = tiny_plan(tiny_job(adapter=BITFIT | {"target_modules": ["key"]}), folder)
    with pytest.raises(Refused, match=r"DP preflight: .*key\.bias"):
        Training(plan, artifact, tiny_dataset(), folder)


def test_there_is_no_training_without_a_passed_preflight(folder):
    """A step so small that float32 drops it: the preflight's last check, in whatever process prepares the job."""
    plan, artifact = tiny_plan(tiny_job(adapter={"head_learning_rate": 1e-12, "body_learning_rate": 1e-12}), folder)
    with pytest.raises(Refused, match="DP preflight"):
        Training(plan, artifact, tiny_dataset(), folder)


def test_an_evaluation_stays_private_to_its_file(planned, training, tmp_path):
    evaluation = training.evaluate(initial_vector(*planned))
    path = tmp_path / "evaluation.json"
    evaluation.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    value = TypeAdapter(dict).validate_json(path.read_bytes())
    assert value == json.loads(path.read_text())
    assert value["accuracy"] == evaluation.accuracy
    assert len(value["probabilities"]) == len(value["labels"]) == 40
    assert all(abs(sum(row) - 1) < 1e-5 for row in value["probabilities"])
    assert "probabilities" not in repr(evaluation)
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_labels_follow_the_plan_s_order(planned, folder):
    """A silo that lists its classes the other way round trains and evaluates the same."""
    dataset = tiny_dataset()
    turned = Part(dataset.training.texts, 1 - dataset.training.labels, dataset.training.units)
    other = Dataset("tiny", "everybody", "record", ("yes", "no"), turned, turned, 40)
    start = initial_vector(*planned)
    mine, theirs = Training(*planned, dataset, folder), Training(*planned, other, folder)
    update = mine.run_round(start, randomness=bits()).update
    assert relative_gap(theirs.run_round(start, randomness=bits()).update, update) < SAME
    ours, turned_round = mine.evaluate(start + update), theirs.evaluate(start + update)
    assert ours.accuracy == turned_round.accuracy
    np.testing.assert_allclose(ours.probabilities, turned_round.probabilities, atol=SAME)


def test_no_held_out_part_is_said(planned, folder):
    dataset = tiny_dataset()
    empty = Part((), np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    training = Training(
        *planned, Dataset("tiny", "everybody", "record", ("no", "yes"), dataset.training, empty, 40), folder
    )
    with pytest.raises(ConfigError, match="holds nothing out"):
        training.evaluate(initial_vector(*planned))


def test_patients_are_drawn_and_give_one_record(folder):
    plan, artifact = tiny_plan(tiny_job(dp={"unit": "patient"}), folder)
    training = Training(plan, artifact, tiny_dataset(40, patients=10), folder)
    assert training.examples.units == 10
    inputs, labels = training.examples.batch(np.array([0, 3, 9]))
    assert len(labels) == 3
    assert {len(tensor) for tensor in inputs.values()} == {3}


def test_a_patient_s_records_all_take_part():
    import torch

    examples = CachedExamples({"x": torch.arange(6)}, torch.zeros(6), [np.array([0, 2, 4]), np.array([1, 3, 5])])
    seen = {int(value) for _ in range(80) for value in examples.batch(np.array([0, 1]))[0]["x"]}
    assert seen == set(range(6))


def test_other_weights_than_the_plan_s_are_refused(planned, tmp_path):
    other = tiny_folder(tmp_path, "roberta")
    with pytest.raises(VerificationError, match="digest"):
        Training(*planned, tiny_dataset(), other)


def test_too_small_a_dataset_is_refused_before_the_model_loads(planned, tmp_path):
    with pytest.raises(Refused, match="below the job's minimum of 4"):
        Training(*planned, tiny_dataset(40, public_size=3), tmp_path / "no such folder")


def test_a_record_s_length_changes_no_other_record_s_computation(planned, folder):
    """One longer text in the part: what the others are computed from stays the same, bit for bit."""
    dataset = tiny_dataset()
    longer = Part((*dataset.training.texts[:-1], "red big " * 6), dataset.training.labels, dataset.training.units)
    mine = Training(*planned, dataset, folder)
    theirs = Training(*planned, replace(dataset, training=longer), folder)
    others = np.arange(39)
    for name, tensor in mine.examples.batch(others)[0].items():
        np.testing.assert_array_equal(tensor.numpy(), theirs.examples.batch(others)[0][name].numpy())


def test_a_model_for_shorter_texts_is_refused(folder):
    with pytest.raises(ConfigError, match="takes no text of 41 tokens"):
        tiny_plan(tiny_job(task={"max_tokens": 41}), folder)


def test_no_record_s_gradient_escapes_the_clip_by_cancelling(folder, monkeypatch):
    """Training asks for measured norms, whatever the engine's default is (tests/attacks shows what ghost's miss)."""
    plan, artifact = tiny_plan(tiny_job(), folder)
    training = Training(plan, artifact, tiny_dataset(), folder)
    asked = []
    real = train_module.train_round

    def watched(*args, **options):
        asked.append((options["clipping"], options["max_physical_batch"]))
        return real(*args, **options)

    monkeypatch.setattr(train_module, "train_round", watched)
    training.run_round(initial_vector(plan, artifact))
    assert asked == [("hooks", 64)]


@pytest.mark.parametrize(
    ("values", "logits", "batch"),
    [(100, 2, 64), (2_000_000, 2, 64), (4_000_000, 2, 33), (200_000_000, 2, 1), (100, 128 * 50_000, 5)],
)
def test_single_examples_gradients_and_logits_stay_within_the_memory_limit(values, logits, batch):
    assert physical_batch(values, logits) == batch
    assert batch == 1 or batch * (values * 4 + logits * 16) <= 512 << 20


# -- shared noise ------------------------------------------------------------------------------------------------------

FOUR = Parties.of({name: f"{i}{i}" * 32 for i, name in enumerate("abcd", 1)}, ("aggregator", "99" * 32))


def quiet_plan(folder, noise):
    """Every record in every sum, so that both mechanisms do the same but for rounding and hardly any noise."""
    dp = {"epsilon": None, "noise_multiplier": 0.01, "sampling_rate": 1.0, "steps_per_round": 1, "noise": noise}
    job = tiny_job(cohort={"minimum": 3}, dp=dp)
    return make_plan(job, folder, folder, FOUR, datetime(2026, 1, 2, tzinfo=UTC))


def test_an_update_with_shared_noise_is_on_the_grid_in_the_plans_order(folder):
    plans = {noise: quiet_plan(folder, noise) for noise in ("local", "shared")}
    local, shared = (Training(*planned, tiny_dataset(), folder) for planned in plans.values())
    start = initial_vector(*plans["local"])
    expected = local.run_round(start).update
    trained = shared.run_round(start)
    plan = plans["shared"][0]
    assert trained.update.dtype == np.uint16
    assert (trained.executed.steps, trained.executed.noise_additions) == (1, 1)
    ranges = coordinate_ranges(plan.tensors)
    on_grid = quantise(trained.update, ranges, 16)
    np.testing.assert_array_equal(on_grid, trained.update, "what is on the grid is not rounded again")
    found = mean_from_sum(on_grid.astype(np.uint32), ranges, 16, 1)
    assert relative_gap(found, expected) < 0.2
    assert np.corrcoef(found, expected)[0, 1] > 0.98
    assert len({spec.learning_rate for spec in plan.tensors}) > 1, "the ranges differ from tensor to tensor"
    assert any(finding.check == "variance of the noise" for finding in shared.self_test.findings)
