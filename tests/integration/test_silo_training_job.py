"""A job on data, from approval to export, with both programs in memory and a tiny transformer trained for real."""

import json
from pathlib import Path

import numpy as np
import pytest
from cloister.wire import JobPhase
from peft import PeftModel

from aggregator.coordinator import CoordinatorDesk
from certs.identity import fingerprint
from certs.names import Role
from privacy.budget import BudgetPolicy
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.codec import decode_entry
from privacy.ledger.verify import verify_log
from runtime.console import run
from runtime.ledger_store import Ledger
from silo_agent import cli, client, command
from silo_agent.accounts import open_budget, require_budget
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.entries import Author, policy_entry
from silo_agent.exporting import export_adapter
from silo_agent.home import Home
from silo_agent.jobs import JobState, require_job_record
from silo_agent.modeling import MeanPooledClassifier
from silo_agent.peers import trust_peer
from silo_agent.planning import Parties, make_plan
from silo_agent.preflight_report import facts
from silo_agent.register import RegisteredDataset, add_dataset, data_files, require_dataset
from silo_agent.tables import LEDGER
from tests.sim.world import World
from tests.tiny import BITFIT, HEAD_ALONE, NORM, PREFIX, PROMPT, tiny_folder, tiny_job

NAMES = ("east", "north", "west")
RECORDS = 60
SPEC = """
{"name": "visits", "population": "patients", "public_size": 30, "path": "visits.csv", "format": "csv",
 "text_column": "note",
 "label": {"column": "ill", "classes": {"no": ["0"], "yes": ["1"]}}, "held_out": {"fraction": 0.3, "seed": 1}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 1)


class DataWorld(World):
    """Three silos with data, a model, budgets and a policy that approves within limits."""

    def __init__(self, folder: Path, model: Path, **job) -> None:
        super().__init__(folder, *NAMES)
        keys = {name: self.identity_key(name).hex() for name in (*NAMES, "aggregator")}
        parties = Parties.of({name: keys[name] for name in NAMES}, ("aggregator", keys["aggregator"]))
        fields = {"federation": self.federation, "rounds": 2, "adapter": HEAD_ALONE, **job}
        self.data_plan, self.artifact = make_plan(tiny_job(**fields), model, model, parties, self.now)
        self.model = model
        for name in NAMES:
            self.supply(name)

    def supply(self, name: str, records: int = RECORDS) -> None:
        state = self.silos[name].state
        (state / "visits.csv").write_text(self.visits(np.random.default_rng(NAMES.index(name)), records))
        self.configure(name, self.model)
        home = Home.open(state, {})
        spec = DatasetSpec.model_validate_json(SPEC)
        with home.store.writing() as tx:
            registered = RegisteredDataset("visits", "patients", state, spec.model_dump_json())
            add_dataset(tx.connection, registered, data_files([spec.file(state)]), self.now)
            for peer in (*NAMES, "aggregator"):
                role = Role.AGGREGATOR if peer == "aggregator" else Role.SILO
                trust_peer(tx.connection, role, peer, fingerprint(self.identity_key(peer)), self.now)
        home.store.close()

    def visits(self, draw: np.random.Generator, records: int) -> str:
        """The data file of one silo."""
        ill = draw.integers(0, 2, records)
        rows = [f"{('red', 'blue')[label]} {('big', 'small')[i % 2]} {i % 30},{label}" for i, label in enumerate(ill)]
        return "note,ill\n" + "\n".join(rows) + "\n"

    def configure(self, name: str, model: Path) -> None:
        (self.silos[name].state / "silo.toml").write_text(
            f'name = "{name}"\nfederation = "{self.federation}"\naggregator = "127.0.0.1:1"\n'
            f"[models.tiny]\nfolder = {json.dumps(str(model))}\n"
            '[policy]\nauto_approve = true\ndataset = "visits"\nmax_epsilon_per_job = 10.0\n'
        )

    def fund(self, name: str, epsilon: float) -> None:
        home = Home.open(self.silos[name].state, {})
        policy = BudgetPolicy("patients", epsilon, 0.01, "record")
        with home.store.writing() as tx:
            open_budget(tx.connection, policy)
            tx.record(policy_entry(Author(name, "steward", "steward", self.now), policy, "first"))
        home.store.close()

    def start(self) -> None:
        desk = CoordinatorDesk(self.runner, max_artifact_bytes=1 << 30)
        self.job = desk.submit("coordinator", self.data_plan.encode(), iter([self.artifact]))
        for silo in self.silos.values():
            silo.boot()

    def record(self, name: str):
        with self.silos[name].home.store.reading() as connection:
            return require_job_record(connection, self.job)

    def entries(self, name: str):
        with self.silos[name].home.store.reading() as connection:
            return [decode_entry(body) for body in Ledger(connection, LEDGER).entries()]


def test_three_silos_train_pay_and_export(tmp_path, model):
    world = DataWorld(tmp_path, model)
    for name in NAMES:
        world.fund(name, 20.0)
    world.start()
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    for name in NAMES:
        silo = world.silos[name]
        assert [entry.kind for entry in world.entries(name)] == [
            "policy", "auto-policy", "job-approval", "self-test", *(["reserve", "commit", "release", "round"] * 2)
        ]  # fmt: skip
        with silo.home.store.reading() as connection:
            budget = require_budget(connection, "patients")
            ledger = Ledger(connection, LEDGER)
            bodies, notes, leaves = list(ledger.entries()), ledger.notes(), ledger.leaf_hashes(ledger.size)
        report = verify_log(bodies, notes, log_origin("sim", name), world.identity_key(name), leaves)
        assert report.populations[0].rounds_committed == 2
        assert 0 < budget.spent_epsilon == pytest.approx(report.populations[0].spent_epsilon)
        results = {path.name for path in (silo.state / "results" / world.job.hex()).iterdir()}
        assert results == {"evaluation-1.json", "evaluation-2.json", "preflight.json"}
        findings = facts(silo.home, "tiny")["findings"]
        assert [each["check"] for each in findings] == list(world.entries(name)[3].checks)
        assert all(each["measured"] <= each["bound"] for each in findings)
        assert not (silo.state / "vault" / world.job.hex()).exists()
    digests = {world.record(name).adapter_digest for name in NAMES}
    assert len(digests) == 1
    folder = export_adapter(world.silos["east"].home, "tiny", tmp_path / "adapter")
    base = MeanPooledClassifier.from_encoder(str(model), labels=["no", "yes"])
    assert PeftModel.from_pretrained(base, str(folder)) is not None
    assert "east" in (folder / "README.md").read_text()


@pytest.mark.parametrize("method", [BITFIT, NORM, PROMPT, PREFIX], ids=lambda method: method["method"])
def test_every_method_goes_from_job_file_to_an_adapter_that_peft_loads(tmp_path, model, method):
    world = DataWorld(tmp_path, model, adapter=method)
    for name in NAMES:
        world.fund(name, 20.0)
    world.start()
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    assert len({world.record(name).adapter_digest for name in NAMES}) == 1
    folder = export_adapter(world.silos["west"].home, "tiny", tmp_path / "adapter")
    base = MeanPooledClassifier.from_encoder(str(model), labels=["no", "yes"])
    assert PeftModel.from_pretrained(base, str(folder)) is not None
    assert f"| method | {method['method']}, " in (folder / "README.md").read_text()


def test_a_steward_approves_with_rounds_for_failures_and_what_it_rests_on(tmp_path, model, monkeypatch, capsys):
    world = DataWorld(tmp_path, model)
    for name in NAMES:
        world.fund(name, 20.0)
    west = world.silos["west"]
    settings = (west.state / "silo.toml").read_text().split("[policy]")[0]
    (west.state / "silo.toml").write_text(settings)
    world.start()
    world.turn()
    assert world.record("west").state is JobState.SEEN
    monkeypatch.setattr(command, "now", lambda: world.now)
    capsys.readouterr()
    words = ["approve", "tiny", "--dataset", "visits", "--extra-rounds", "1", "--legal-basis", "Art. 9(2)(j)"]
    assert run(cli.app, [*words, "--state", str(west.state), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    entry = world.entries("west")[-1]
    assert (said["rounds_granted"], said["epsilon_after"]) == (3, entry.epsilon_after)
    assert (entry.rounds, entry.legal_basis, entry.dpia, entry.automatic) == (3, "Art. 9(2)(j)", None, False)
    world.run()
    assert world.record("west").adapter_round == 2
    with west.home.store.reading() as connection:
        assert require_budget(connection, "patients").rounds_left(world.job.hex()) == 1


def test_a_budget_too_small_for_the_job_refuses_it_before_any_gradient_and_says_what_fits(tmp_path, model):
    world = DataWorld(tmp_path, model)
    for name, epsilon in zip(NAMES, (20.0, 20.0, 1.0), strict=True):
        world.fund(name, epsilon)
    world.start()
    world.run()
    record = world.record("west")
    assert record.state is JobState.REFUSED
    assert "the cap is 1 at delta 0.01" in record.why
    last = world.entries("west")[-1]
    assert (last.kind, last.decision, last.reason, last.asked.rounds) == ("refuse", "budget", "over-cap", 2)
    assert not any(entry.kind == "reserve" for entry in world.entries("west"))
    assert world.status().phase is JobPhase.FINISHED, "the others went on"
    assert world.record("east").adapter_round == 2


def test_other_weights_than_the_plans_are_refused(tmp_path, model):
    world = DataWorld(tmp_path, model)
    for name in NAMES:
        world.fund(name, 20.0)
    world.configure("west", tiny_folder(tmp_path / "other", "roberta"))
    world.start()
    world.run()
    assert world.record("west").state is JobState.REFUSED
    assert "the plan pins" in world.record("west").why
    assert (world.entries("west")[-1].decision, world.entries("west")[-1].reason) == ("preflight", "wrong-digest")


def test_a_dataset_below_the_plans_minimum_is_refused(tmp_path, model):
    world = DataWorld(tmp_path, model, cohort={"minimum": 2, "tolerated_colluders": 0, "minimum_dataset_size": 31})
    for name in NAMES:
        world.fund(name, 20.0)
    world.start()
    world.turn()
    for name in NAMES:
        assert world.record(name).state is JobState.REFUSED, "there are more than 31; what was said is 30"
        assert "its public_size is 30 records, below the job's minimum of 31" in world.record(name).why


def test_a_dataset_that_shrank_waits_for_its_steward(tmp_path, model):
    world = DataWorld(tmp_path, model)
    for name in NAMES:
        world.fund(name, 20.0)
    west = world.silos["west"]
    file = west.state / "visits.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:6]))
    world.start()
    world.turn()
    assert world.record("west").state is JobState.SEEN
    assert "visits.csv has changed since it was registered" in world.record("west").why
    with west.home.store.writing() as tx:
        add_dataset(tx.connection, require_dataset(tx.connection, "visits"), data_files([file]), world.now)
    world.turn()
    assert world.record("west").state is JobState.SEEN
    assert "fewer than public_size = 30 records are left to train on" in world.record("west").why


def test_without_a_budget_or_a_model_the_job_waits_for_its_steward(tmp_path, model):
    world = DataWorld(tmp_path, model)
    world.fund("east", 20.0)
    world.fund("north", 20.0)
    world.start()
    world.turn()
    assert world.record("west").state is JobState.SEEN
    assert "cloister silo budget set patients" in world.record("west").why
    world.fund("west", 20.0)
    world.configure("west", tmp_path / "missing")
    world.silos["west"].boot()
    world.turn()
    assert world.record("west").state is JobState.SEEN
    assert "there is no folder" in world.record("west").why


def test_a_silo_cut_off_in_training_pays_and_the_job_goes_on(tmp_path, model):
    world = DataWorld(tmp_path, model)
    for name in NAMES:
        world.fund(name, 20.0)
    world.start()
    west = world.silos["west"]
    west.cut_at = None
    world.run(until=lambda: west.writes[-1:] == ["SendJoin"])
    west.cut_at = len(west.writes) + 2  # Reserved, then Train
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    outcomes = [entry.outcome for entry in world.entries("west") if entry.kind == "commit"]
    assert sorted(outcomes) == ["executed", "presumed"], "which round was cut off hangs on who joined last"
    assert {world.record(name).adapter_digest for name in NAMES} == {world.record("east").adapter_digest}
