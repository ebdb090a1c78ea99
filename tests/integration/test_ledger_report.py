"""`cloister ledger report` on what a federation that trained has exported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from certs.wallet import Wallet
from federation.ledger_cli import app
from privacy.tasks import ModelTask
from runtime.bundle_form import ENTRIES
from runtime.console import run
from silo_agent import client
from tests.bundles import members_of, written
from tests.integration.test_silo_training_job import NAMES, DataWorld
from tests.reading_pages import read_page
from tests.tiny import tiny_folder

LISTS = {  # of github.com/opendp/deployments-registry-data, schemas/deployments-schema.yaml at commit 057e5d8
    "data_product_type": {"Summary statistics", "Machine learning model", "Dataset", "Synthetic data"},
    "variant_name": {"Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"},
    "model_name": {"Local", "Central", "Shuffle", "Federated", "Varies"},
    "release_type": {"One release", "Many releases"},
    "access_type": {"Interactive", "Non-interactive"},
}
FIELDS = {
    "basic": {"name", "data_curators", "description", "intended_use", "data_product_type", "publication_date"},
    "dp_variant": {"variant_name", "data_domain", "unprotected_quantities"},
    "privacy_loss": {"privacy_unit", "privacy_unit_details", "privacy_parameters", "privacy_parameters_details"},
    "deployment_model": {
        "model_name", "model_name_details", "actors", "release_type", "release_type_details", "access_type",
    },
    "implementation": {"mechanisms", "composition", "additional_information"},
    "administrative": {"status", "registry_authors", "tier"},
}  # fmt: skip


class Exports:
    """The bundles of a silo and of the aggregator, and what they are signed by."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.world = DataWorld(folder / "world", model)
        for name in NAMES:
            self.world.fund(name, 20.0)
        self.world.start()
        self.world.run()
        self.silo, self.aggregator = folder / "silo.zip", folder / "aggregator.zip"
        for state, out in ((self.world.silos["east"].state, self.silo), (self.world.state.root, self.aggregator)):
            assert run(app, ["export", "--state", str(state), "--out", str(out)]) == 0
        self.key = Wallet(self.world.silos["east"].state / "wallet").identity().public_key.hex()
        self.aggregator_key = self.world.identity_key("aggregator").hex()


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Exports:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "ATTEMPTS", 1)
        return Exports(tmp_path_factory.mktemp("report"), tiny_folder(tmp_path_factory.mktemp("model")))


def call(*words: object) -> int:
    return run(app, ["report", *(str(word) for word in words)])


def verified(bundle: Path, key: str, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert run(app, ["verify", str(bundle), "--key", key, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_silo_s_page_says_what_verify_says(exports, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert call(exports.silo, "--key", exports.key, "--out", page) == 0
    assert "Verified; 11 entries on the page" in capsys.readouterr().out
    found = verified(exports.silo, exports.key, capsys)
    shown = read_page(page.read_text(encoding="utf-8"))
    plan = exports.world.data_plan
    (row,) = found["populations"]
    assert shown.find("h1")[0].text == "Privacy ledger of east"
    for fact in (
        found["root"],
        exports.key,
        f"{row['spent_epsilon']:.3f} (by PLD, a tighter calculation",
        f"{row['spent_epsilon']:.3f} at delta 0.01, for each record of patients (PLD {row['spent_pld_epsilon']:.3f})",
        "2 granted, 2 charged, 0 refunded, 2 published, 0 aborted",
        "population patients, dataset visits",
        "the policy file (agent of east)",
        "within the policy file's limits",
        "no legal basis stated; no impact assessment stated",
        "sealed updates went to aggregator; in the published sums were east, north, west",
        "who may open sums: east, north, west",
        plan.digest().hex(),
        plan.purpose,
        "2 transcripts compared",
        "1 compared",
        "The export was not limited",
    ):
        assert fact in shown.text, fact
    assert isinstance(plan.task, ModelTask)
    assert plan.task.model.weights_sha256 in shown.text
    assert plan.name in [heading.text for heading in shown.find("h3")]


def test_an_aggregator_s_page_has_its_jobs_and_no_budget(exports, tmp_path):
    page = tmp_path / "page.html"
    assert call(exports.aggregator, "--key", exports.aggregator_key, "--out", page) == 0
    text = read_page(page.read_text(encoding="utf-8")).text
    assert "no population of aggregator was trained on" in text
    assert "2 published, 0 aborted" in text


def test_the_registry_file_has_a_record_a_job(exports, tmp_path, capsys):
    page, registry = tmp_path / "page.html", tmp_path / "registry.json"
    words = (exports.silo, "--key", exports.key, "--out", page, "--registry", registry, "--json")
    assert call(*words) == 0
    assert json.loads(capsys.readouterr().out) == {
        "verified": True, "page": str(page), "entries": 11, "registry": str(registry), "records": 1,
    }  # fmt: skip
    (row,) = verified(exports.silo, exports.key, capsys)["populations"]
    (record,) = json.loads(registry.read_text(encoding="utf-8"))
    assert record.keys() == {"url_slug", "deployment"}
    parts = record["deployment"]
    assert {name: set(part) for name, part in parts.items()} == FIELDS
    for name, values in LISTS.items():
        assert [part[name] for part in parts.values() if name in part][0] in values  # noqa: RUF015
    assert parts["basic"]["name"] == exports.world.data_plan.name
    assert parts["privacy_loss"]["privacy_parameters"] == {
        "epsilon": pytest.approx(row["spent_epsilon"], rel=1e-9),
        "delta": 0.01,
    }
    assert "2 rounds charged, 2 published" in parts["deployment_model"]["release_type_details"]


def test_nothing_is_written_about_a_bundle_that_does_not_verify(exports, tmp_path, capsys):
    bundle, page, registry = tmp_path / "forged.zip", tmp_path / "page.html", tmp_path / "registry.json"
    members = members_of(exports.silo)
    lines = members[ENTRIES].split(b"\n")
    lines[5] = lines[5].replace(b"aggregator", b"aggregatop")
    written(bundle, members | {ENTRIES: b"\n".join(lines)})
    words = ("--key", exports.key, "--out", page, "--registry", registry)
    assert call(bundle, *words) == 6
    said = capsys.readouterr().err
    assert run(app, ["verify", str(bundle), "--key", exports.key]) == 6
    assert said == capsys.readouterr().err
    assert "entry 5" in said
    assert call(exports.silo, "--key", "ab" * 32, "--out", page) == 6
    assert call(exports.silo, "--out", page) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forged.zip"]


def test_a_file_that_is_there_is_never_written_over(exports, tmp_path, capsys):
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_text("a report")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for words in (("--out", there), ("--out", new, "--registry", there), ("--out", dangling)):
        assert call(exports.silo, "--key", exports.key, *words) == 3
        assert "is there already" in capsys.readouterr().err
    assert call(exports.silo, "--key", exports.key, "--out", new, "--registry", new) == 3
    assert "names the same file as --out" in capsys.readouterr().err
    assert call(exports.silo, "--key", exports.key, "--out", tmp_path / "no" / "page.html") == 3
    assert "does not exist" in capsys.readouterr().err
    assert there.read_text() == "a report"
    assert not new.exists()


AUDITOR = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from federation.cli import Root
from runtime.console import run
sys.exit(run(Root(), {words!r}))
"""
ABSENT = ("torch", "tenseal", "opacus", "transformers", "grpc", "google", "pandas", "matplotlib", "sklearn", "numba")


def test_it_needs_what_an_auditor_installs_and_no_more(exports, tmp_path):
    page = tmp_path / "page.html"
    words = ["ledger", "report", str(exports.silo), "--key", exports.key, "--out", str(page)]
    code = AUDITOR.format(absent=ABSENT, words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert page.stat().st_mode & 0o777 == 0o644
