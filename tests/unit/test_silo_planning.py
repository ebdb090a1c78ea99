import hashlib
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load as load_safetensors

from privacy.accounting import dp_sgd_event, rdp_epsilon, rdp_vector, round_event, times
from privacy.canonical import canonical_json
from privacy.errors import ConfigError, ProtocolError
from privacy.flatten import adapter_digest
from privacy.plan import JobPlan
from privacy.suites import Suite
from runtime.config import load_config
from silo_agent.job_file import JobFile
from silo_agent.models import NORMALISER
from silo_agent.normaliser import Normaliser, Range
from silo_agent.planning import Parties, fix_mechanism, make_plan, update_range, update_ranges
from silo_agent.train import initial_vector
from tests.tiny import HEAD_ALONE, NORM, PARTIES, PREFIX, PROMPT, tiny_body, tiny_folder, tiny_job, tiny_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def test_the_plan_pins_what_was_made(folder):
    plan, artifact = tiny_plan(tiny_job(), folder)
    assert JobPlan.decode(plan.encode()) == plan
    assert plan.task.adapter.initial_sha256 == hashlib.sha256(artifact).hexdigest()
    assert bytes.fromhex(plan.initial_adapter) == adapter_digest(initial_vector(plan, artifact))
    assert plan.created_utc == "2026-01-02T00:00:00Z"
    assert [member.name for member in plan.cohort.roster] == ["north", "south"]
    assert plan.round_attempts == 6
    assert tiny_plan(tiny_job(), folder)[0].digest() != plan.digest()  # a nonce: two submissions are two jobs


def test_rates_belong_to_head_and_lora(folder):
    plan, _ = tiny_plan(tiny_job(), folder)
    rates = {spec.name.rsplit(".", 2)[1]: spec.learning_rate for spec in plan.tensors}
    assert rates == {"classifier": 2.0, "lora_B": 0.5}


def test_noise_is_calibrated_to_all_rounds_together():
    job = tiny_job()
    mechanism = fix_mechanism(job)
    cost = rdp_epsilon(rdp_vector(dp_sgd_event(mechanism, job.rounds * 2)), 0.01)
    assert 7.9 < cost <= 8.0
    fixed = fix_mechanism(tiny_job(dp={"epsilon": None, "noise_multiplier": 3.25}))
    assert fixed.noise_multiplier == 3.25


def test_the_range_covers_a_batch_of_one_mind_and_six_deviations():
    mechanism = fix_mechanism(tiny_job(dp={"epsilon": None, "noise_multiplier": 4.0}))
    exact = 0.5 * (2 * 1.0 + 6 * 2**0.5 * 4.0 / 16)
    assert exact <= update_range(0.5, mechanism) <= exact * 1.01


@pytest.mark.parametrize("rate", [1e-32, 1e30, 1e300, 1.7e308])
def test_a_range_that_float32_does_not_hold_is_the_job_file_s_fault(rate):
    with pytest.raises(ConfigError, match="job file: with a learning rate of"):
        update_range(rate, fix_mechanism(tiny_job()))
    with pytest.raises(ConfigError, match=r"job file: with a learning rate of .* it is 1e-30 to 1e\+30"):
        update_ranges({"head": rate}, fix_mechanism(tiny_job(dp=SHARED), honest=2), 100, 16)


@pytest.mark.parametrize("rate", [1e-30, 1e-20, 1e20, 2e29])
def test_ranges_are_normal_numbers_of_float32(folder, rate):
    plan, _ = tiny_plan(tiny_job(adapter={"body_learning_rate": rate}), folder)
    for spec in plan.tensors:
        assert np.isfinite(np.float32(spec.update_range))
        assert np.float32(spec.update_range) >= np.finfo(np.float32).tiny


def test_starting_values(folder):
    first, again = (load_safetensors(tiny_plan(tiny_job(), folder)[1]) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)  # adapter.seed fixes A
    a = next(value for name, value in first.items() if ".lora_A." in name)
    assert np.abs(a).max() <= 0.25
    assert a.std() > 0.05
    fresh = [load_safetensors(tiny_plan(tiny_job(adapter={"seed": None}), folder)[1]) for _ in range(2)]
    assert any(not np.array_equal(fresh[0][name], fresh[1][name]) for name in first if ".lora_A." in name)
    center, deviation = (first[f"base_model.model.{name}"] for name in NORMALISER)
    assert center.any()
    assert (deviation > 0).all()


def test_a_prompt_starts_at_words_and_a_prefix_near_zero(folder):
    words = tiny_body().get_input_embeddings().weight.detach().numpy()
    prompt = load_safetensors(tiny_plan(tiny_job(adapter=PROMPT), folder)[1])
    assert all((words == row).all(axis=1).any() for row in prompt["prompt_embeddings"])
    assert prompt[f"base_model.{NORMALISER[0]}"].any()
    prefix = load_safetensors(tiny_plan(tiny_job(adapter=PREFIX), folder)[1])["prompt_embeddings"]
    assert prefix.shape == (3, 2 * 3 * 16)  # keys and values of three layers
    assert 0.01 < prefix.std() < 0.03


def test_made_up_sentences(tmp_path):
    spec = Normaliser.model_validate(
        {
            "template": "{a}/{b}",
            "columns": {"a": {"values": ["x", "y"]}, "b": {"low": 1, "high": 2, "decimals": 1}},
            "count": 200,
        }
    )
    sentences = spec.made_up(tmp_path)
    assert sentences == spec.made_up(tmp_path)
    assert {s.split("/")[0] for s in sentences} == {"x", "y"}
    assert {s.split("/")[1] for s in sentences} == {"1", *(f"1.{i}" for i in range(1, 10)), "2"}
    (tmp_path / "s.txt").write_text("\n".join(f"line {i}" for i in range(60)) + "\n\n")
    assert len(Normaliser(sentences="s.txt").made_up(tmp_path)) == 60
    (tmp_path / "few.txt").write_text("one\n")
    with pytest.raises(ConfigError, match=r"few.txt has fewer than 50 sentences"):
        Normaliser(sentences="few.txt").made_up(tmp_path)
    with pytest.raises(ConfigError, match=r"gone.txt does not read as text"):
        Normaliser(sentences="gone.txt").made_up(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"values": ["a"], "low": 1, "high": 2}, "either values, or low and high"),
        ({"low": 1}, "either values, or low and high"),
        ({}, "either values, or low and high"),
        ({"low": 2, "high": 2}, "low must be below high"),
    ],
)
def test_wrong_ranges(value, message):
    with pytest.raises(ValidationError, match=message):
        Range.model_validate(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": {"rank": 0}}, "ffa-lora needs rank, alpha, target_modules and body_learning_rate"),
        (
            {"adapter": {"method": "head"}},
            "method head takes no rank, alpha, rank_stabilised, target_modules, virtual_tokens, layers or",
        ),
        ({"adapter": {"method": "bitfit"}}, "method bitfit takes no rank, alpha, rank_stabilised or virtual_tokens"),
        ({"adapter": PROMPT | {"virtual_tokens": 0}}, "prompt needs virtual_tokens and body_learning_rate"),
        (
            {"adapter": PREFIX | {"layers": [1]}},
            "prefix takes no rank, alpha, rank_stabilised, target_modules or layers",
        ),
        ({"adapter": NORM | {"target_modules": []}}, "norm needs target_modules and body_learning_rate"),
        ({"adapter": {"head": "model"}}, "takes no \\[normaliser\\]"),
        ({"normaliser": None}, "needs a \\[normaliser\\]"),
        ({"normaliser": {"template": "{size} {shape}"}}, "the template disagree about 'colour'"),
        ({"normaliser": {"template": "{size!r}"}}, "format or a conversion"),
        ({"normaliser": {"sentences": "x"}}, "either sentences"),
        ({"dp": {"noise_multiplier": 2.0}}, "either epsilon or noise_multiplier"),
        ({"dp": {"epsilon": None}}, "either epsilon or noise_multiplier"),
        ({"dp": {"sampling_rate": 1.5}}, "less than or equal to 1"),
        ({"dp": {"delta": 0.5}}, "less than 0.1"),
        ({"dp": {"steps": 3}}, "Extra inputs"),
        ({"cohort": {"minimum": 1}}, "greater than or equal to 2"),
        ({"suite": "none"}, "ckks-group"),
        ({"open_to": "all"}, "silos\\+aggregator"),
        ({"grid_bits": 20}, "less than or equal to 16"),
    ],
)
def test_a_wrong_job_file_says_where(changes, message):
    with pytest.raises(ValidationError, match=message):
        tiny_job(**changes)


@pytest.mark.parametrize(
    ("dp", "complaint"),
    [
        ({"delta": 0.03}, r"dp.delta is 0.03; with cohort.minimum_dataset_size = 40 it must be at most 0.025"),
        ({"proximal": 0.6}, r"dp.proximal is 0.6; times the largest learning rate, 2, it is over 1"),
    ],
)
def test_a_mechanism_that_makes_no_sense_is_refused(folder, dp, complaint):
    job = tiny_job(dp=dp, cohort={"minimum_dataset_size": 40})
    with pytest.raises(ConfigError, match=complaint):
        tiny_plan(job, folder)


def test_a_plan_that_cannot_be_is_the_job_file_s_fault(folder):
    with pytest.raises(ConfigError, match=r"cohort.minimum is 3; with 2 silos, 0 of them colluding, it must be 2-2"):
        tiny_plan(tiny_job(cohort={"minimum": 3}), folder)
    with pytest.raises(ConfigError, match=r"cohort.tolerated_colluders: is 1, and of 2 silos two .* at most 0"):
        tiny_plan(tiny_job(cohort={"tolerated_colluders": 1}), folder)
    with pytest.raises(ConfigError, match=r"hides no update in a sum of so few.*or choose the suite ckks-group"):
        tiny_plan(tiny_job(suite="ckks-multikey"), folder)
    with pytest.raises(ConfigError, match=r"round_attempts must be at least rounds"):
        tiny_plan(tiny_job(round_attempts=2), folder)
    same = Parties.of({"north": "11" * 32, "south": "11" * 32}, ("aggregator", "33" * 32))
    with pytest.raises(ConfigError, match=r"one identity key under two names"):
        make_plan(tiny_job(), folder, folder, same, datetime(2026, 1, 2, tzinfo=UTC))


def test_suite_parameters_and_colluders_that_the_job_file_leaves_open_fit_its_silos(folder):
    two, _ = tiny_plan(tiny_job(), folder)
    assert (two.suite, two.parameters, two.open_to) == (Suite.CKKS_GROUP, "group", "silos")
    assert two.cohort.tolerated_colluders == 0
    four = Parties.of({name: f"{i}{i}" * 32 for i, name in enumerate("abcd", 1)}, ("aggregator", "99" * 32))
    job = tiny_job(cohort={"minimum": 3}, open_to="silos+aggregator")
    plan, _ = make_plan(job, folder, folder, four, datetime(2026, 1, 2, tzinfo=UTC))
    assert (plan.suite, plan.parameters, plan.open_to) == (Suite.CKKS_MULTIKEY, "small", "silos+aggregator")
    assert (plan.cohort.tolerated_colluders, plan.cohort.minimum) == (1, 3)


FOUR = Parties.of({name: f"{i}{i}" * 32 for i, name in enumerate("abcd", 1)}, ("aggregator", "99" * 32))
SHARED = {"noise": "shared", "steps_per_round": 1}


def shared_plan(folder, dp=None, **changes):
    job = tiny_job(**{"cohort": {"minimum": 3}, "dp": SHARED | (dp or {}), **changes})
    return make_plan(job, folder, folder, FOUR, datetime(2026, 1, 2, tzinfo=UTC))[0]


def test_shared_noise_is_made_up_of_as_many_shares_as_a_sum_has_honest_members(folder):
    plan = shared_plan(folder)
    assert JobPlan.decode(plan.encode()) == plan
    assert (plan.dp.noise, plan.dp.noise_shares) == ("shared", 2)
    assert shared_plan(folder, cohort={"minimum": 4}).dp.noise_shares == 3
    assert 7.9 < rdp_epsilon(rdp_vector(dp_sgd_event(plan.dp, 3)), 0.01) <= 8.0
    steps = {spec.update_range / spec.learning_rate for spec in plan.tensors}
    assert max(steps) == pytest.approx(min(steps)) == plan.shared_grid.reach
    assert plan.shared_grid.rounding_cost < 0.05


METRICS = {"noise_multiplier": 5.0, "most_units": 500}


def test_validation_figures_are_paid_out_of_the_same_epsilon(folder):
    plain, published = (tiny_plan(tiny_job(**more), folder)[0] for more in ({}, {"metrics": METRICS}))
    assert published.dp.metrics.loss_bound == 4.0
    assert published.dp.noise_multiplier > plain.dp.noise_multiplier + 0.001
    cost = rdp_epsilon(times(rdp_vector(round_event(published.dp, 2)), 3), 0.01)
    assert 7.9 < cost <= 8.0
    with pytest.raises(ConfigError, match=r"none up to 10000 keeps .* or more noise on \[metrics\]"):
        tiny_plan(tiny_job(metrics={"noise_multiplier": 0.2}), folder)
    shared = shared_plan(folder, metrics=METRICS)
    assert shared.sent_values == shared.values + 3
    with pytest.raises(ConfigError, match=r"dp.metrics.most_units leaves the shared noise too coarse a grid"):
        shared_plan(folder, metrics=METRICS | {"most_units": 1_000_000})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dp": {"steps_per_round": 2}}, "allows one step a round"),
        ({"dp": {"proximal": 0.1}}, "has one step a round, which starts at the global adapter: dp.proximal does noth"),
        ({"suite": "ckks-group"}, "needs suite ckks-multikey: with ckks-group a silo's own share of the noise can be"),
        ({"cohort": {"minimum": 2}}, "cohort.minimum: leaves 1 honest members in the smallest sum"),
        ({"grid_bits": 8}, "shared noise: .* leave a grid of 8 bits too coarse: .*set grid_bits = 16"),
    ],
)
def test_shared_noise_that_would_protect_nobody_is_refused(folder, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        shared_plan(folder, **changes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plan: plan["dp"].update(noise_shares=3), "as many shares as a sum has honest members"),
        (lambda plan: plan["dp"].update(noise_shares=1), "dp.noise is shared, and dp.noise_shares 1"),
        (lambda plan: plan["dp"].update(noise="local"), "dp.noise is local, and dp.noise_shares 2"),
        (lambda plan: plan["dp"].update(clip_l2=2.0), "update_range is not what the grid of shared noise makes it"),
        (lambda plan: plan["dp"].update(noise_multiplier=1e5), "too coarse"),
    ],
)
def test_a_plan_that_shares_noise_wrongly_is_refused_by_every_silo(folder, change, complaint):
    value = shared_plan(folder).model_dump(mode="json")
    change(value)
    with pytest.raises(ProtocolError, match=complaint):
        JobPlan.decode(canonical_json(value))


def test_a_missing_model_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone"):
        make_plan(tiny_job(), tmp_path, tmp_path / "gone", PARTIES, datetime(2026, 1, 2, tzinfo=UTC))


def test_the_file_form(tmp_path, folder):
    (tmp_path / "job.toml").write_text(
        """
name = "notes"
federation = "clinics"
purpose = "Sort notes"
rounds = 2
[model]
source = "tiny"
[task]
labels = ["no", "yes"]
max_tokens = 40
[adapter]
method = "head"
head_learning_rate = 1
[normaliser]
sentences = "made-up.txt"
[dp]
epsilon = 4
delta = 0.001
clip_l2 = 1
sampling_rate = 0.5
steps_per_round = 2
expected_batch_size = 32
unit = "record"
[cohort]
minimum = 2
minimum_dataset_size = 10
"""
    )
    (tmp_path / "made-up.txt").write_text("\n".join(f"red {i}" for i in range(60)))
    job = load_config(JobFile, tmp_path / "job.toml", "", {})
    plan, _ = make_plan(job, tmp_path, folder, PARTIES, datetime(2026, 1, 2, tzinfo=UTC))
    assert plan.task.max_tokens == 40
    assert JobFile.model_fields["task"].annotation(labels=("no", "yes")).max_tokens == 128
    assert plan.deadlines.consent_s == 600.0
    assert plan.task.adapter.method == "head" == HEAD_ALONE["method"]
    (tmp_path / "job.toml").write_text("nmae = 'x'")
    with pytest.raises(ConfigError, match=r"Did you mean 'name'"):
        load_config(JobFile, tmp_path / "job.toml", "", {})


def test_the_documented_way_to_write_is_a_job(folder):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "job-file.md").read_text(encoding="utf-8")
    sample = tomllib.loads(page.split("```toml\n", 1)[1].split("```", 1)[0])
    plain = tiny_job().model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    job = JobFile.model_validate({key: value for key, value in plain.items() if key != "normaliser"} | sample)
    assert job.task.kind == "causal-language-modelling"
    assert (job.adapter.head, job.adapter.head_learning_rate) == ("none", None)
