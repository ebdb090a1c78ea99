import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from privacy.dp.allowlist import check_allowed
from privacy.errors import ConfigError, Refused, VerificationError
from silo_agent.activation_store import ActivationStore
from silo_agent.activations import Suffix, with_cached_activations
from silo_agent.adapters import adapt, head_modules, trained_parameters
from silo_agent.modeling import MeanPooledClassifier, Normaliser
from silo_agent.models import (
    Tokenizer,
    adapter_state,
    build_model,
    load_base,
    load_state,
    read_artifact,
    trainable_state,
)
from tests.tiny import BITFIT, HEAD_ALONE, NORM, PREFIX, PROMPT, tiny_folder, tiny_job, tiny_plan

LLAMA_SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
LLAMA_SIZES |= {"num_attention_heads": 2, "pad_token_id": 0}
TEXTS = ("red big 3", "blue small 4 made up", "green")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def planned(folder):
    return tiny_plan(tiny_job(), folder)


def shaken(model):
    """Every adapter value away from zero, so that each of them shows in the logits."""
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in get_peft_model_state_dict(model).values():
            tensor.add_(0.3 * torch.rand_like(tensor))
    return model


def test_the_artifact_is_what_peft_saves_and_the_manifest_is_what_trains(folder, planned):
    plan, artifact = planned
    model = build_model(plan.task, folder, artifact)
    state = load_safetensors(artifact)
    assert state.keys() == get_peft_model_state_dict(model).keys() == adapter_state(model).keys()
    assert all(np.array_equal(state[name], value) for name, value in adapter_state(model).items())
    assert {spec.name: spec.shape for spec in plan.tensors} == {n: t.shape for n, t in trainable_state(model).items()}
    assert not any(".lora_A." in spec.name for spec in plan.tensors)
    assert any(".lora_A." in name and value.any() for name, value in state.items())
    assert all(np.allclose(value, 0) for name, value in trainable_state(model).items())
    check_allowed(model)


def test_only_the_layers_named_are_adapted(planned):
    names = [spec.name for spec in planned[0].tensors]
    assert names == [
        "base_model.model.classifier.weight",
        "base_model.model.encoder.encoder.layer.2.attention.self.query.lora_B.weight",
        "base_model.model.encoder.encoder.layer.2.attention.self.value.lora_B.weight",
    ]


def test_plain_lora_trains_a_too(folder):
    plan, artifact = tiny_plan(tiny_job(adapter={"method": "lora"}), folder)
    assert sum(".lora_A." in spec.name for spec in plan.tensors) == 2
    build_model(plan.task, folder, artifact)


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 1.0), (True, 2.0)])
def test_rank_stabilised_lora_is_scaled_by_the_root_of_the_rank(folder, stabilised, scale):
    """Alpha 4, rank 4: 4 / 4, or 4 / 2."""
    changes = {"method": "lora", "rank": 4, "alpha": 4.0, "rank_stabilised": stabilised}
    plan, artifact = tiny_plan(tiny_job(adapter=changes), folder)
    model = build_model(plan.task, folder, artifact)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales = {found for layer in layers for found in layer.scaling.values()}
    assert scales == {scale}


def test_state_goes_out_and_comes_back(folder, planned):
    plan, artifact = planned
    model = build_model(plan.task, folder, artifact)
    state = {name: np.full_like(value, 0.5) for name, value in trainable_state(model).items()}
    load_state(model, state)
    assert all((value == 0.5).all() for value in trainable_state(model).values())
    with pytest.raises(VerificationError, match=r"classifier.weight is absent, unknown or of another shape"):
        load_state(model, state | {"base_model.model.classifier.weight": np.zeros((3, 3), np.float32)})


def test_an_altered_artifact_is_refused(folder, planned):
    plan, artifact = planned
    with pytest.raises(VerificationError, match=r"its SHA-256 is not the one in the plan"):
        build_model(plan.task, folder, artifact[:-1] + b"\1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {}, "lacks base_model.model.classifier.weight"),
        (lambda state: {n: v.astype(np.float64) for n, v in state.items()}, "is not finite float32"),
        (lambda state: {n: v * np.float32(np.nan) for n, v in state.items()}, "is not finite float32"),
        (lambda state: state | {"extra": np.zeros(1, np.float32)}, "extra is absent, unknown"),
    ],
)
def test_a_pinned_artifact_with_other_content_is_refused(folder, planned, change, message):
    import hashlib

    plan, artifact = planned
    forged = save_safetensors(change(load_safetensors(artifact)))
    adapter = plan.task.adapter.model_copy(update={"initial_sha256": hashlib.sha256(forged).hexdigest()})
    with pytest.raises(VerificationError, match=message):
        build_model(plan.task.model_copy(update={"adapter": adapter}), folder, forged)
    not_safetensors = plan.task.adapter.model_copy(update={"initial_sha256": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(VerificationError, match=r"not a safetensors file"):
        read_artifact(b"x", not_safetensors)


def test_a_folder_without_model_or_tokenizer_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for head in ("model", "mean-pooled-normalised"):
        with pytest.raises(ConfigError, match=r"empty does not load"):
            load_base(tmp_path / "empty", ["a", "b"], head)
    with pytest.raises(ConfigError, match=r"has no tokenizer that loads"):
        Tokenizer(tmp_path / "empty", 8)


def test_targets_that_match_nothing_are_named(folder):
    with pytest.raises(ConfigError, match=r"target_modules q_proj and layers \[2\] match nothing"):
        tiny_plan(tiny_job(adapter={"target_modules": ["q_proj"]}), folder)


def test_a_body_with_missing_weights_is_refused(tmp_path):
    """A BERT saved without its pooler would get a random one, another at each silo."""
    folder = tiny_folder(tmp_path)
    from safetensors.torch import load_file, save_file

    kept = {n: t for n, t in load_file(folder / "model.safetensors").items() if "pooler" not in n}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"bert.pooler.dense.bias is not in the checkpoint"):
        load_base(folder, ["a", "b"], "model")
    load_base(folder, ["a", "b"], "mean-pooled-normalised")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("head", ["model", "mean-pooled-normalised"])
@pytest.mark.parametrize("layers", [(2,), (1, 2), ()])
def test_cached_activations_change_nothing(tmp_path, kind, head, layers):
    folder = tiny_folder(tmp_path, kind)
    targets = ["q_lin", "v_lin"] if kind == "distilbert" else ["query", "value"]
    shape = tiny_job().adapter.model_copy(update={"target_modules": targets, "layers": layers, "head": head})
    model = shaken(adapt(load_base(folder, ["a", "b"], head), shape)).eval()
    tokens = Tokenizer(folder, 16)(TEXTS)
    with torch.no_grad():
        expected = model(**tokens).logits
        trainable = with_cached_activations(model, (tokens,))
        assert isinstance(trainable.module, Suffix) == bool(layers)
        found = trainable.module(**trainable.inputs[0])
        torch.testing.assert_close(getattr(found, "logits", found), expected)
        flipped = {name: tensor.flip(0) for name, tensor in trainable.inputs[0].items()}
        again = trainable.module(**flipped)
        torch.testing.assert_close(getattr(again, "logits", again), expected.flip(0))


def test_a_head_alone_runs_no_layer_again(folder):
    job = tiny_job(adapter=HEAD_ALONE)
    plan, artifact = tiny_plan(job, folder)
    model = shaken(build_model(plan.task, folder, artifact)).eval()
    tokens = Tokenizer(folder, 16)(TEXTS)
    with torch.no_grad():
        expected = model(**tokens).logits
        trainable = with_cached_activations(model, (tokens,))
        torch.testing.assert_close(trainable.module(**trainable.inputs[0]), expected)
    assert [spec.name for spec in plan.tensors] == ["base_model.model.classifier.weight"]
    assert sum(p.numel() for n, p in trainable.module.named_parameters() if ".layer." in n) == 0


@pytest.mark.parametrize("method", [BITFIT, NORM])
@pytest.mark.parametrize(("layers", "cached"), [((2,), True), ((1, 2), True), ((), False)])
def test_biases_and_norms_are_cached_below_the_first_layer_that_trains(folder, method, layers, cached):
    """With no layers named, those of the embeddings train too, and there is nothing below to cache."""
    plan, artifact = tiny_plan(tiny_job(adapter=method | {"layers": list(layers)}), folder)
    model = shaken(build_model(plan.task, folder, artifact)).eval()
    tokens = Tokenizer(folder, 16)(TEXTS)
    with torch.no_grad():
        expected = model(**tokens).logits
        trainable = with_cached_activations(model, (tokens,))
        assert isinstance(trainable.module, Suffix) == cached
        found = trainable.module(**trainable.inputs[0])
        torch.testing.assert_close(getattr(found, "logits", found), expected)


@pytest.mark.parametrize(
    ("method", "ends", "values"),
    [
        (BITFIT, {"query.bias", "value.bias", "dense.bias"}, 2 * (5 * 16 + 32 - 16) + 2 * 16),
        (NORM, {"ln_tuning_layers.weight", "ln_tuning_layers.bias"}, 2 * 2 * 2 * 16 + 2 * 16),
    ],
)
def test_only_what_the_method_names_trains(folder, method, ends, values):
    """Of the last two of three layers, and the head."""
    plan, _ = tiny_plan(tiny_job(adapter=method), folder)
    body = [spec.name for spec in plan.tensors if ".classifier." not in spec.name]
    assert {".".join(name.split(".")[-2:]) for name in body} == ends
    assert {name.split(".layer.")[1][0] for name in body} == {"1", "2"}
    assert plan.values == values
    assert {spec.learning_rate for spec in plan.tensors if spec.name in body} == {0.5}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (BITFIT | {"target_modules": ["nothing"]}, r"nothing and layers \[1, 2\] match nothing in it.*with a bias"),
        (BITFIT | {"layers": [9]}, r"layers \[9\] match nothing"),
        (NORM | {"target_modules": ["Norm"]}, r"match nothing in it.*norm layers, for instance LayerNorm"),
        (NORM | {"layers": [9]}, r"layers \[9\] match nothing"),
    ],
)
def test_targets_that_are_not_there_are_refused(folder, change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        tiny_plan(tiny_job(adapter=change), folder)


def test_a_prefix_that_would_do_nothing_is_refused(tmp_path):
    distilled = tiny_folder(tmp_path, "distilbert")
    with pytest.raises(ConfigError, match=r"DistilBertModel, which takes no past keys and values.*prompt"):
        tiny_plan(tiny_job(adapter=PREFIX), distilled)
    plan, _ = tiny_plan(tiny_job(adapter=PROMPT), distilled)
    assert plan.values == 3 * 16 + 2 * 16


def test_a_prompt_that_hides_the_text_s_end_is_refused():
    config = LlamaConfig(**LLAMA_SIZES)
    shape = tiny_job(adapter=PROMPT | {"head": "model"}, normaliser=None).adapter
    with pytest.raises(ConfigError, match=r"end of a text by its token ids.*prefix"):
        adapt(LlamaForSequenceClassification(config), shape)


def test_a_job_no_silo_could_train_is_refused_when_it_is_planned(folder):
    with pytest.raises(Refused, match=r"query.*full fine-tuning"):
        tiny_plan(tiny_job(adapter=NORM | {"target_modules": ["query"]}), folder)


def test_decoder_layers_with_other_masks_are_cached_too():
    torch.manual_seed(1)
    config = LlamaConfig(**LLAMA_SIZES)
    shape = tiny_job().adapter.model_copy(update={"target_modules": ("q_proj",), "head": "model"})
    model = shaken(adapt(LlamaForSequenceClassification(config), shape)).eval()
    assert head_modules(model.get_base_model()) == ["score"]
    tokens = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    with torch.no_grad():
        expected = model(**tokens).logits
        trainable = with_cached_activations(model, (tokens,))
        assert isinstance(trainable.module, Suffix)
        torch.testing.assert_close(trainable.module(**trainable.inputs[0]), expected)


@pytest.fixture
def no_memory(monkeypatch):
    for limit in ("CACHE_LIMIT_BYTES", "SMALL_BYTES"):
        monkeypatch.setattr(f"silo_agent.activations.{limit}", 100)


@pytest.mark.parametrize("limit", [None, 0, 3 * 5 * 16 * 4 - 1])
def test_activations_that_fit_nowhere_are_not_cached(folder, planned, no_memory, tmp_path, limit):
    plan, artifact = planned
    model = build_model(plan.task, folder, artifact)
    tokens = Tokenizer(folder, 16)(TEXTS)
    store = None if limit is None else ActivationStore(tmp_path / "activations", limit)
    trainable = with_cached_activations(model, (tokens,), store, "weights")
    assert trainable.module is model
    assert trainable.inputs == (tokens,)
    assert not (tmp_path / "activations").exists()


def test_activations_that_do_not_fit_into_memory_are_mapped_and_found_again(folder, planned, no_memory, tmp_path):
    plan, artifact = planned
    tokens = Tokenizer(folder, 16)(TEXTS)
    store = ActivationStore(tmp_path / "activations", 1 << 20)
    outputs, ran = [], []
    for _ in range(2):
        model = shaken(build_model(plan.task, folder, artifact)).eval()
        first = model.get_base_model().encoder.encoder.layer[0]
        first.register_forward_hook(lambda *_: ran.append(1))
        trainable = with_cached_activations(model, (tokens,), store, "weights")
        assert isinstance(trainable.module, Suffix)
        with torch.no_grad():
            outputs.append(trainable.module(**trainable.inputs[0]))
    with torch.no_grad():
        expected = shaken(build_model(plan.task, folder, artifact)).eval()(**tokens).logits
    torch.testing.assert_close(outputs[0], expected)
    assert torch.equal(*outputs)
    assert len(ran) == 1 + 2, "recorded once; each time one row says what the layer returns"
    (file,) = (tmp_path / "activations").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_size == 4 * trainable.inputs[0]["hidden"].numel()


def test_other_weights_layers_and_tokens_have_other_files(folder, planned, no_memory, tmp_path):
    plan, artifact = planned
    store = ActivationStore(tmp_path / "activations", 1 << 20)
    for texts, weights in ((TEXTS, "one"), (TEXTS, "two"), (TEXTS[:2], "one"), (TEXTS, "one")):
        model = build_model(plan.task, folder, artifact)
        with_cached_activations(model, (Tokenizer(folder, 16)(texts),), store, weights)
    assert len(list((tmp_path / "activations").iterdir())) == 3


def test_names_do_not_change_under_the_suffix(folder, planned):
    plan, artifact = planned
    model = build_model(plan.task, folder, artifact)
    before = list(trained_parameters(model))
    trainable = with_cached_activations(model, (Tokenizer(folder, 16)(TEXTS),))
    assert list(trained_parameters(model)) == before
    inside = {id(p) for p in trainable.module.parameters() if p.requires_grad}
    assert inside == {id(p) for p in trained_parameters(model).values()}


def test_the_normaliser_centres_scales_and_gives_unit_norm():
    normaliser = Normaliser(2)
    normaliser.center.copy_(torch.tensor([1.0, 0.0]))
    normaliser.deviation.copy_(torch.tensor([2.0, 0.5]))
    out = normaliser(torch.tensor([[7.0, 2.0], [1.0, 0.0]]))
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_pooling_leaves_padding_out(folder):
    model = MeanPooledClassifier.from_encoder(str(folder), ["a", "b"]).eval()
    tokenize = Tokenizer(folder, 16)
    with torch.no_grad():
        alone = model.pooled(**tokenize(["green"]))
        padded = model.pooled(**tokenize(["green", "blue small 4 made up"]))[:1]
    torch.testing.assert_close(alone, padded)
    assert model.config.id2label == {0: "a", 1: "b"}


def test_the_classifier_saves_and_loads_by_itself(folder, tmp_path):
    model = MeanPooledClassifier.from_encoder(str(folder), ["a", "b"]).eval()
    with torch.no_grad():
        model.classifier.weight.fill_(0.1)
        model.normaliser.center.fill_(0.2)
    model.save_pretrained(tmp_path)
    again = MeanPooledClassifier.from_pretrained(tmp_path).eval()
    tokens = Tokenizer(folder, 16)(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(again(**tokens).logits, model(**tokens).logits)


def test_texts_are_cut_at_the_plan_s_limit(folder):
    tokens = Tokenizer(folder, 4)(["red " * 30, "blue"])
    assert tokens["input_ids"].shape == (2, 4)


def test_a_model_s_own_head_starts_at_zero_and_trains(folder, tmp_path):
    plan, artifact = tiny_plan(tiny_job(adapter={"head": "model"}, normaliser=None), folder)
    model = build_model(plan.task, folder, artifact)
    assert type(model.get_base_model()) is type(AutoModelForSequenceClassification.from_pretrained(str(folder)))
    with torch.no_grad():
        assert not model(**Tokenizer(folder, 16)(TEXTS)).logits.any()
    assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} < {s.name for s in plan.tensors}
