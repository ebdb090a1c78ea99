import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from privacy.errors import ConfigError, VerificationError
from privacy.flatten import adapter_digest, unflatten
from privacy.job_budget import job_epsilon
from runtime.model_card import Facts, Spent, model_card
from silo_agent.export import write_adapter
from silo_agent.modeling import MeanPooledClassifier
from silo_agent.models import Tokenizer, build_model, load_state
from silo_agent.train import initial_vector
from tests.tiny import BITFIT, HEAD_ALONE, NORM, PREFIX, PROMPT, tiny_folder, tiny_job, tiny_plan

TEXTS = ("red big 3", "blue small 4 made up", "green")
FACTS = Facts(3, {"north": 3, "south": 2}, {"north": Spent(1.9999, 0.001)}, "tests/north 12 abc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def trained(plan, artifact):
    start = initial_vector(plan, artifact)
    return start + np.random.default_rng(2).normal(0, 0.3, start.shape).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": {"method": "lora"}},
        {"adapter": {"method": "lora", "rank": 4, "rank_stabilised": True}},
        {"adapter": BITFIT},
        {"adapter": NORM},
        {"adapter": PROMPT},
        {"adapter": PREFIX},
        {"adapter": PROMPT | {"head": "model"}, "normaliser": None},
        {"adapter": PREFIX | {"head": "model"}, "normaliser": None},
        {"adapter": BITFIT | {"head": "model"}, "normaliser": None},
        {"adapter": NORM | {"head": "model"}, "normaliser": None},
        {"adapter": HEAD_ALONE},
        {"adapter": {"head": "model"}, "normaliser": None},
        {"adapter": {"layers": []}},
    ],
)
def test_peft_loads_what_was_exported(folder, tmp_path, changes):
    plan, artifact = tiny_plan(tiny_job(**changes), folder)
    vector = trained(plan, artifact)
    own = build_model(plan.task, folder, artifact).eval()
    load_state(own, unflatten(vector, plan.tensors))
    write_adapter(tmp_path / "out", plan, artifact, vector, FACTS)

    if plan.task.adapter.head == "model":
        base = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=2)
    else:
        base = MeanPooledClassifier.from_encoder(str(folder), labels=["no", "yes"])
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    tokens = Tokenizer(folder, 16)(TEXTS)
    with torch.no_grad():
        expected = own(**tokens).logits
        torch.testing.assert_close(loaded(**tokens).logits, expected)
    assert (expected[:, 0] - expected[:, 1]).abs().min() > 1e-3  # the comparison sees the adapter


def test_the_card_says_what_it_must(folder, tmp_path):
    plan, artifact = tiny_plan(tiny_job(), folder)
    vector = trained(plan, artifact)
    card = (write_adapter(tmp_path / "out", plan, artifact, vector, FACTS) / "README.md").read_text()
    for text in (
        "Tests. Fine-tuned by 2 institutions (north, south)",
        f"| north | record | 3 | {job_epsilon(plan, plan.dp.delta, 3):.4f} | 1.9999 at 0.001 |",
        f"| south | record | 2 | {job_epsilon(plan, plan.dp.delta, 2):.4f} | not told to the exporter |",
        "trained on records of its own, by its own statement at least 4, as texts of at\nmost 16 tokens",
        "| suite | ckks-group |",
        plan.digest().hex(),
        plan.task.model.weights_sha256,
        plan.task.adapter.initial_sha256,
        "| ledger checkpoint | tests/north 12 abc |",
        "PeftModel.from_pretrained(base",
        "0 = no, 1 = yes",
    ):
        assert text in card


def test_the_card_says_what_epsilon_rests_on_and_covers(folder):
    plan, artifact = tiny_plan(tiny_job(metrics={"noise_multiplier": 20.0}), folder)
    dp = plan.dp.model_copy(update={"noise": "shared", "noise_shares": 3})
    vector = trained(plan, artifact)
    card = model_card(plan, plan.task, adapter_digest(vector).hex(), FACTS)
    assert "with noise multiplier 20;\nepsilon counts that." in card
    assert "honestly" not in card
    shared = model_card(plan.model_copy(update={"dp": dp}), plan.task, adapter_digest(vector).hex(), FACTS)
    assert "epsilon holds while 3 of them\nadded their share honestly." in shared


def test_the_lines_of_the_card_run(folder, tmp_path):
    plan, artifact = tiny_plan(tiny_job(), folder)
    out = write_adapter(tmp_path / "out", plan, artifact, trained(plan, artifact), FACTS)
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 4
    code = code.replace('"tiny"', repr(str(folder))).replace('"this-folder"', repr(str(out)))
    names = {}
    exec(code, names)
    assert isinstance(names["model"], PeftModel)


def test_equal_adapters_are_equal_bytes(folder, tmp_path):
    plan, artifact = tiny_plan(tiny_job(), folder)
    vector = trained(plan, artifact)
    one, two = (write_adapter(tmp_path / name, plan, artifact, vector, FACTS) for name in "ab")
    names = sorted(path.name for path in one.iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "cloister_plan.json"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert json.loads((one / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert (one / "cloister_plan.json").read_bytes() == plan.encode()


def test_a_full_folder_and_another_artifact_are_refused(folder, tmp_path):
    plan, artifact = tiny_plan(tiny_job(), folder)
    vector = trained(plan, artifact)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        write_adapter(tmp_path, plan, artifact, vector, FACTS)
    with pytest.raises(VerificationError, match="SHA-256"):
        write_adapter(tmp_path / "out", plan, artifact[:-1] + b"\1", vector, FACTS)
    assert not (tmp_path / "out").exists()
