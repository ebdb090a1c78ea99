"""A job whose rounds publish validation figures: what the aggregator shows is what the silos' held-out parts say."""

import io
import json

import numpy as np
import pytest
from cloister.wire import JobPhase
from rich.console import Console

from aggregator.coordinator import CoordinatorDesk
from aggregator.display import curve_text, job_facts, round_facts, rounds_shown
from privacy.budget import BudgetPolicy
from silo_agent.accounts import open_budget, require_budget
from silo_agent.entries import Author, policy_entry
from silo_agent.home import Home
from tests.integration.test_silo_training_job import NAMES, DataWorld
from tests.tiny import tiny_folder

LOCAL = {"dp": {"epsilon": None, "noise_multiplier": 1.0}, "metrics": {"noise_multiplier": 0.4, "most_units": 200}}
SHARED = {"suite": "ckks-multikey", "cohort": {"minimum": 3}, "metrics": {"noise_multiplier": 1.0, "most_units": 200}}
SHARED |= {"dp": {"epsilon": None, "noise_multiplier": 1.0, "noise": "shared", "steps_per_round": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def begun(folder, model, ends=JobPhase.FINISHED, **job) -> DataWorld:
    world = DataWorld(folder, model, rounds=3, **job)
    for name in NAMES:
        home = Home.open(world.silos[name].state, {})
        policy = BudgetPolicy("patients", 400.0, 0.01, "record")
        with home.store.writing() as tx:
            open_budget(tx.connection, policy)
            tx.record(policy_entry(Author(name, "steward", "steward", world.now), policy, "first"))
        home.store.close()
        config = (world.silos[name].state / "silo.toml").read_text()
        config = config.replace("max_epsilon_per_job = 10.0", "max_epsilon_per_job = 400.0\nshared_noise = true")
        (world.silos[name].state / "silo.toml").write_text(config)
    world.start()
    world.run()
    assert world.status().phase is ends, world.where()
    return world


def evaluated(world: DataWorld, round_number: int) -> tuple[float, float, int]:
    """Accuracy, mean loss and number of the three held-out parts after a round, from the silos' own folders."""
    right, losses = [], []
    for name in NAMES:
        path = world.silos[name].state / "results" / world.job.hex() / f"evaluation-{round_number}.json"
        found = json.loads(path.read_text())
        for label, row in zip(found["labels"], found["probabilities"], strict=True):
            right.append(int(np.argmax(row)) == label)
            losses.append(min(-np.log(row[label]), 4.0))
    return float(np.mean(right)), float(np.mean(losses)), len(right)


@pytest.mark.parametrize("job", [LOCAL, SHARED], ids=["local", "shared"])
def test_every_round_publishes_what_the_held_out_parts_say_but_for_its_noise(tmp_path, model, job):
    world = begun(tmp_path, model, **job)
    desk = CoordinatorDesk(world.runner, max_artifact_bytes=1 << 30)
    rounds, (status,) = desk.rounds(world.job), desk.statuses()
    published = [each.validations[0] for each in rounds]
    assert [each.round for each in published] == [1, 2, 3]
    assert status.validations == tuple(published)
    for figures in published[1:]:
        accuracy, loss, units = evaluated(world, figures.round - 1)
        noise = units * figures.accuracy_error
        assert 0.2 < noise < 4
        assert abs(figures.units - units) < 12 * noise
        assert abs(figures.accuracy - accuracy) < 6 * figures.accuracy_error
        assert abs(figures.loss - loss) < 6 * 4 * 1.5 * figures.accuracy_error
    assert len({each.accuracy for each in published}) == 3
    facts = job_facts(status)["validations"]
    assert facts[2]["accuracy"] == round_facts(rounds[2])["validations"][0]["accuracy"]
    assert f"{published[-1].accuracy:.3f} (noise " in curve_text(status)
    sink = io.StringIO()
    Console(file=sink, width=160).print(*rounds_shown("tiny", rounds))
    assert "held-out units" in sink.getvalue()
    for name in NAMES:
        commit = next(entry for entry in world.entries(name) if entry.kind == "commit")
        assert commit.mechanism.validation_noise_multiplier == world.data_plan.dp.metrics.noise_multiplier
        with world.silos[name].home.store.reading() as connection:
            spent = require_budget(connection, "patients").spent_epsilon
        assert spent > commit.charge.epsilon > 3, "figures of so little noise are dear, and charged"
    assert len({world.record(name).adapter_digest for name in NAMES}) == 1


def test_silos_that_report_different_sums_end_the_job_and_are_not_believed(tmp_path, model, monkeypatch):
    from silo_agent import round_work

    honest = round_work.next_adapter
    calls = []

    def lying(*asked):
        adapter, sums = honest(*asked)
        calls.append(sums)
        return adapter, (sums[0] + (len(calls) % 3 == 0), *sums[1:])

    monkeypatch.setattr(round_work, "next_adapter", lying)
    world = begun(tmp_path, model, JobPhase.STOPPED, **LOCAL)
    assert calls
    assert "validation sums differ after round 1" in world.status().reason
    for each in CoordinatorDesk(world.runner, max_artifact_bytes=1 << 30).rounds(world.job):
        assert each.validations == ()
