"""Token classification and language modelling: training, validation, cache and export at one silo."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from privacy.dp.randomness import Randomness
from privacy.errors import ConfigError
from privacy.flatten import unflatten
from privacy.plan import JobPlan
from privacy.tasks import LanguageModelling, TokenClassification
from runtime.model_card import Facts
from silo_agent import train as train_module
from silo_agent.activations import Suffix, Trainable
from silo_agent.adapters import trained_heads
from silo_agent.encoding import Encoder, made_up
from silo_agent.export import write_adapter
from silo_agent.models import build_model, load_state
from silo_agent.train import Training, initial_vector
from tests.tiny import (
    BITFIT,
    NORM,
    PREFIX,
    PROMPT,
    TAGS,
    WRITING,
    tiny_dataset,
    tiny_folder,
    tiny_job,
    tiny_plan,
    tiny_tagged,
    tiny_writer,
    tiny_written,
)

DP = {"epsilon": None, "noise_multiplier": 0.01, "expected_batch_size": 20.0, "steps_per_round": 8}
NONE = {"head": "none", "head_learning_rate": None}
WRITING_BY = [
    {},
    {"method": "lora"},
    BITFIT | NONE | {"target_modules": ["c_attn", "c_proj", "c_fc"]},
    NORM | NONE | {"target_modules": ["ln_1", "ln_2"]},
    PREFIX | NONE,
    PROMPT | NONE,
]
TAGS_BY = [{}, {"method": "lora"}, BITFIT, NORM, PREFIX, PROMPT]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        "tags": tiny_folder(tmp_path_factory.mktemp("reader")),
        "gpt2": tiny_writer(tmp_path_factory.mktemp("writer")),
        "llama": tiny_writer(tmp_path_factory.mktemp("llama"), "llama"),
    }


def job(kind, adapter=None, **changes):
    base = TAGS if kind == "tags" else WRITING
    return tiny_job(**{**base, **changes, "adapter": {**base["adapter"], **(adapter or {})}})


def data(kind):
    return tiny_tagged() if kind == "tags" else tiny_written()


LEARNING = {
    "tags": ({"head_learning_rate": 4.0, "body_learning_rate": 1.0}, DP),
    "gpt2": (
        {"rank": 8, "body_learning_rate": 30.0, "target_modules": ["c_attn", "c_proj", "c_fc"]},
        DP | {"steps_per_round": 20},
    ),
}


@pytest.mark.parametrize("kind", ["tags", "gpt2"])
def test_it_learns(folders, kind):
    adapter, dp = LEARNING[kind]
    plan, artifact = tiny_plan(job(kind, adapter | {"layers": []}, dp=dp), folders[kind])
    training = Training(plan, artifact, data(kind), folders[kind])
    vector = start = initial_vector(plan, artifact)
    for seed in range(7):
        vector = vector + training.run_round(vector, randomness=Randomness.deterministic_for_tests(seed)).update
    before, after = training.evaluate(start), training.evaluate(vector)
    assert after.loss < before.loss - 0.2
    assert before.accuracy < 0.7 < 0.85 < after.accuracy
    assert (after.labels, after.probabilities) == ((), ())


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [*(("tags", adapter) for adapter in TAGS_BY), *(("gpt2", adapter) for adapter in WRITING_BY), ("llama", {})],
)
def test_every_method_passes_the_preflight_and_peft_loads_what_is_exported(folders, tmp_path, kind, adapter):
    changes = adapter | ({"target_modules": ["q_proj", "v_proj"]} if kind == "llama" else {})
    plan, artifact = tiny_plan(job(kind, changes), folders[kind])
    assert JobPlan.decode(plan.encode()) == plan
    assert isinstance(plan.task, TokenClassification if kind == "tags" else LanguageModelling)
    assert Training(plan, artifact, data(kind), folders[kind]).self_test.values == plan.values
    start = initial_vector(plan, artifact)
    vector = start + np.random.default_rng(2).normal(0, 0.3, start.shape).astype(np.float32)
    own = build_model(plan.task, folders[kind], artifact).eval()
    assert bool(trained_heads(own)) == (kind == "tags"), "a language model's output layer stays as it is"
    load_state(own, unflatten(vector, plan.tensors))
    write_adapter(tmp_path / "out", plan, artifact, vector, Facts(1, {"north": 1}, {}))
    if kind == "tags":
        base = AutoModelForTokenClassification.from_pretrained(str(folders[kind]), num_labels=2)
    else:
        base = AutoModelForCausalLM.from_pretrained(str(folders[kind]))
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    tokens, _ = Encoder(plan.task, folders[kind])(made_up(plan.task), plan.task.labels)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**tokens).logits, own(**tokens).logits)
    card = (tmp_path / "out" / "README.md").read_text()
    pipeline = "token-classification" if kind == "tags" else "text-generation"
    assert f"pipeline_tag: {pipeline}" in card
    assert ("Classes:" in card) == (kind == "tags")


def without_cache(model, parts, *_):
    return Trainable(model, parts)


@pytest.mark.parametrize("kind", ["tags", "gpt2"])
def test_cached_activations_change_nothing(folders, kind, monkeypatch):
    plan, artifact = tiny_plan(job(kind, dp=DP), folders[kind])
    start, updates = initial_vector(plan, artifact), []
    for cached in (True, False):
        if not cached:
            monkeypatch.setattr(train_module, "with_cached_activations", without_cache)
        training = Training(plan, artifact, data(kind), folders[kind])
        assert isinstance(training.module, Suffix) == cached
        updates.append(training.run_round(start, randomness=Randomness.deterministic_for_tests(1)).update)
    np.testing.assert_allclose(*updates, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["tags", "gpt2"])
def test_validation_sums_are_of_the_mean_over_each_records_tokens(folders, kind):
    metrics = {"noise_multiplier": 0.01, "most_units": 100}
    plan, artifact = tiny_plan(job(kind, dp=DP, metrics=metrics), folders[kind])
    training = Training(plan, artifact, data(kind), folders[kind])
    start = initial_vector(plan, artifact)
    correct, loss, halves = training.run_round(start).update[-3:]
    found = training.evaluate(start)
    assert halves == pytest.approx(20, abs=0.1)
    assert correct == pytest.approx(40 * (found.accuracy - 0.5), abs=0.1)
    assert loss == pytest.approx(40 * (min(found.loss, 4) / 4 - 0.5), abs=0.5)


def test_a_physical_batch_of_a_language_model_has_room_for_its_vocabulary(folders, monkeypatch):
    """Of 16 tokens and 64 words: with room for the logits of three records and their gradients, three at once."""
    plan, artifact = tiny_plan(job("gpt2", dp=DP), folders["gpt2"])
    each = 4 * plan.values + 16 * 16 * 64
    monkeypatch.setattr(train_module, "BATCH_LIMIT_BYTES", 3 * each)
    asked = []
    honest = train_module.train_round

    def watched(*args, **options):
        asked.append(options["max_physical_batch"])
        return honest(*args, **options)

    monkeypatch.setattr(train_module, "train_round", watched)
    training, start = Training(plan, artifact, tiny_written(), folders["gpt2"]), initial_vector(plan, artifact)
    update = training.run_round(start, randomness=Randomness.deterministic_for_tests(1)).update
    assert asked == [3]
    monkeypatch.undo()
    whole = Training(plan, artifact, tiny_written(), folders["gpt2"])
    again = whole.run_round(start, randomness=Randomness.deterministic_for_tests(1)).update
    np.testing.assert_allclose(update, again, rtol=1e-3, atol=1e-5)


def test_data_of_another_kind_is_refused(folders):
    plan, artifact = tiny_plan(job("tags"), folders["tags"])
    with pytest.raises(ConfigError, match="is described for sequence-classification; the job's task is token-classif"):
        Training(plan, artifact, tiny_dataset(), folders["tags"])


def test_an_evaluation_file_has_no_record_of_its_own(folders, tmp_path):
    plan, artifact = tiny_plan(job("gpt2", dp=DP), folders["gpt2"])
    found = Training(plan, artifact, tiny_written(), folders["gpt2"]).evaluate(initial_vector(plan, artifact))
    found.write(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text()).keys() == {
        "accuracy", "loss", "labels", "probabilities",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"task": {"kind": "causal-language-modelling"}}, "causal-language-modelling takes none"),
        ({"task": {"labels": []}}, "sequence-classification takes two or more"),
        ({"task": {"kind": "token-classification"}}, 'adapter.head for token-classification is "model"'),
        ({**WRITING, "adapter": {"head": "model"}}, 'adapter.head for causal-language-modelling is "none"'),
        ({**WRITING, "adapter": {"head": "none"}}, 'head = "none" takes no head_learning_rate'),
        ({"adapter": {"head_learning_rate": None}}, 'head = "mean-pooled-normalised" needs a head_learning_rate'),
    ],
)
def test_a_job_file_that_mixes_kinds_says_what_fits(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        tiny_job(**changes)


def test_a_plan_that_mixes_kinds_is_refused(folders):
    plan, _ = tiny_plan(job("tags"), folders["tags"])
    task = plan.task.model_copy(update={"adapter": plan.task.adapter.model_copy(update={"head": "none"})})
    with pytest.raises(ValueError, match=r"task.adapter.head is none; for token-classification it is model"):
        JobPlan.model_validate(plan.model_copy(update={"task": task}).model_dump())


def test_a_model_saved_without_its_output_layer_writes_nothing(folders):
    with pytest.raises(ConfigError, match=r"is not in the checkpoint and would be random|does not load"):
        tiny_plan(job("gpt2", {"target_modules": ["query"]}), folders["tags"])
