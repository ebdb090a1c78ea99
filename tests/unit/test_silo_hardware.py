"""Where training runs is what silo.toml says; what is frozen may round in bfloat16, and nothing that trains does."""

import numpy as np
import pytest
import torch

from privacy.dp.randomness import Randomness
from privacy.errors import ConfigError
from silo_agent.activation_store import ActivationStore
from silo_agent.activations import with_cached_activations
from silo_agent.hardware import CPU, Hardware, chosen
from silo_agent.models import Tokenizer, build_model
from silo_agent.settings import SiloSettings
from silo_agent.train import Training, initial_vector
from tests.tiny import tiny_dataset, tiny_folder, tiny_job, tiny_plan

HALF = Hardware(torch.device("cpu"), torch.bfloat16)
TEXTS = ["a b c d", "d e", "f a b", "c c c"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def planned(folder):
    """Only the third of three layers trains, so that two are run once."""
    job = tiny_job(
        adapter={"layers": [2]},
        dp={"epsilon": None, "noise_multiplier": 0.01, "expected_batch_size": 20.0, "steps_per_round": 8},
    )
    return tiny_plan(job, folder)


@pytest.fixture
def machine(monkeypatch):
    def has(*, gpu, bfloat16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)

    return has


@pytest.mark.parametrize(
    ("gpu", "bfloat16", "device", "frozen", "expected"),
    [
        (False, False, "auto", "auto", ("cpu", torch.float32)),
        (True, True, "auto", "auto", ("cuda", torch.bfloat16)),
        (True, False, "auto", "auto", ("cuda", torch.float32)),
        (True, True, "cpu", "auto", ("cpu", torch.float32)),
        (True, True, "cuda", "float32", ("cuda", torch.float32)),
        (False, False, "cpu", "bfloat16", ("cpu", torch.bfloat16)),
    ],
)
def test_what_is_chosen(machine, gpu, bfloat16, device, frozen, expected):
    machine(gpu=gpu, bfloat16=bfloat16)
    found = chosen(device, frozen)
    assert (found.device.type, found.frozen) == expected


def test_a_gpu_that_is_not_there_is_refused(machine):
    machine(gpu=False)
    with pytest.raises(ConfigError, match=r"training\.device in silo\.toml.*no GPU"):
        chosen("cuda", "auto")


def test_the_settings_take_the_same_words():
    base = {"name": "north", "federation": "heart", "aggregator": "localhost:1"}
    assert SiloSettings.model_validate(base).training.device == "auto"
    for wrong in ({"device": "tpu"}, {"frozen": "float16"}, {"gpu": 1}):
        with pytest.raises(ValueError, match="training"):
            SiloSettings.model_validate({**base, "training": wrong})


def test_frozen_layers_in_bfloat16_round_and_the_rest_does_not(folder, planned):
    def hidden_and_logits(hardware):
        model = build_model(planned[0].task, folder, planned[1]).eval()
        trainable = with_cached_activations(model, (Tokenizer(folder, 16)(TEXTS),), hardware=hardware)
        with torch.no_grad():
            found = trainable.module(**trainable.inputs[0])
        assert all(p.dtype == torch.float32 for p in trainable.module.parameters())
        return trainable.inputs[0]["hidden"], getattr(found, "logits", found)

    whole, logits = hidden_and_logits(CPU)
    half, _ = hidden_and_logits(HALF)
    assert half.dtype == logits.dtype == torch.float32
    error = float((half - whole).norm() / whole.norm())
    assert 1e-5 < error < 2e-2  # bfloat16 has 8 bits: it did round, and no more than that


def test_frozen_layers_in_bfloat16_train_and_pass_the_preflight(folder, planned):
    plan, artifact = planned
    start = initial_vector(plan, artifact)
    whole, half = (Training(plan, artifact, tiny_dataset(), folder, hardware=each) for each in (CPU, HALF))
    assert half.self_test.values == plan.values
    bits = Randomness.deterministic_for_tests
    updates = [each.run_round(start, randomness=bits(3)).update.astype(np.float64) for each in (whole, half)]
    other = whole.run_round(start, randomness=bits(4)).update.astype(np.float64)
    assert 0 < np.linalg.norm(updates[0] - updates[1]) < 0.2 * np.linalg.norm(updates[0] - other)


def test_activations_of_one_precision_are_not_found_by_the_other(folder, planned, tmp_path, monkeypatch):
    monkeypatch.setattr("silo_agent.activations.CACHE_LIMIT_BYTES", 1)
    monkeypatch.setattr("silo_agent.activations.SMALL_BYTES", 1)
    store = ActivationStore(tmp_path / "activations", 1 << 20)
    for hardware in (CPU, HALF, HALF):
        model = build_model(planned[0].task, folder, planned[1]).eval()
        with_cached_activations(model, (Tokenizer(folder, 16)(TEXTS),), store, "weights", hardware)
    assert len(list((tmp_path / "activations").iterdir())) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_what_the_cpu_trains(folder, planned):
    plan, artifact = planned
    start = initial_vector(plan, artifact)
    gpu = Hardware(torch.device("cuda"), torch.float32)
    ours, theirs = (Training(plan, artifact, tiny_dataset(), folder, hardware=each) for each in (CPU, gpu))
    bits = Randomness.deterministic_for_tests
    mine, other = (each.run_round(start, randomness=bits(3)).update.astype(np.float64) for each in (ours, theirs))
    np.testing.assert_allclose(mine, other, atol=1e-4)
    assert theirs.evaluate(start).loss == pytest.approx(ours.evaluate(start).loss, rel=1e-3)
