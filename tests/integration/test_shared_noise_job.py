"""A job whose silos share the noise of every sum, from approval to the ledger."""

import json

import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.accounting import SharedGaussian, rdp_epsilon, rdp_vector, times, unshared
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.verify import verify_log
from runtime.console import run
from runtime.ledger_store import Ledger
from silo_agent import cli, command
from silo_agent.accounts import require_budget
from silo_agent.jobs import JobState
from silo_agent.tables import LEDGER
from tests.integration.test_silo_training_job import NAMES, DataWorld
from tests.tiny import tiny_folder

SHARED = {"suite": "ckks-multikey", "cohort": {"minimum": 3}, "dp": {"noise": "shared", "steps_per_round": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


def accepting(world: DataWorld, *names: str) -> None:
    for name in names:
        with (world.silos[name].state / "silo.toml").open("a") as config:
            config.write("shared_noise = true\n")


@pytest.fixture
def world(tmp_path, model):
    world = DataWorld(tmp_path, model, **SHARED)
    for name in NAMES:
        world.fund(name, 20.0)
    return world


def test_three_silos_share_the_noise_once_the_third_accepts_it(world, monkeypatch, capsys):
    accepting(world, "east", "north")
    world.start()
    world.turn()
    west = world.silos["west"]
    assert world.record("west").state is JobState.SEEN
    assert "policy.shared_noise is off, and its noise is shared: epsilon" in world.record("west").why
    monkeypatch.setattr(command, "now", lambda: world.now)
    words = ["approve", "tiny", "--dataset", "visits", "--state", str(west.state)]
    capsys.readouterr()
    assert run(cli.app, words) == 5
    said = capsys.readouterr().err
    assert "holds while 2 members of every sum are honest, and is" in said
    assert "approve it with --accept-shared-noise; if not, refuse it" in said
    assert world.record("west").state is JobState.SEEN
    assert world.entries("west")[-1].kind == "policy", "nothing was granted"
    assert run(cli.app, [*words, "--accept-shared-noise", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    dp, charge = world.data_plan.dp, world.entries("west")[-1].charge
    assert value["honest_members"] == 2
    alone = rdp_epsilon(times(rdp_vector(unshared(charge.event)), 2), dp.delta)
    assert value["epsilon_if_alone"] == pytest.approx(alone)
    assert alone > 1.3 * value["epsilon_after"]
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    assert len({world.record(name).adapter_digest for name in NAMES}) == 1
    for name in NAMES:
        silo = world.silos[name]
        with silo.home.store.reading() as connection:
            ledger, budget = Ledger(connection, LEDGER), require_budget(connection, "patients")
            bodies, notes, leaves = list(ledger.entries()), ledger.notes(), ledger.leaf_hashes(ledger.size)
        report = verify_log(bodies, notes, log_origin("sim", name), world.identity_key(name), leaves)
        assert report.populations[0].rounds_committed == 2
        assert report.populations[0].spent_pld_epsilon is None, "nobody knows one"
        assert budget.spent_epsilon * 3 / 2 > 7.9
        assert budget.spent_epsilon < 8.0
        commit = next(entry for entry in world.entries(name) if entry.kind == "commit")
        assert commit.mechanism.kind == "shared-noise-sum"
        assert commit.charge.event.event.event == SharedGaussian(noise_multiplier=dp.noise_multiplier, shares=2)


def require_spent(world: DataWorld, name: str) -> float:
    with world.silos[name].home.store.reading() as connection:
        return require_budget(connection, "patients").spent_epsilon


def test_a_sum_with_a_share_too_few_is_abandoned_before_it_opens(world):
    """West is cut off after it joined the round: two members would have one honest share where two are promised."""
    accepting(world, *NAMES)
    world.start()
    world.silos["west"].off_after = "Reserved"
    world.run(until=lambda: not world.silos["west"].up, seconds=5.0)
    assert not world.silos["west"].up
    world.run(until=lambda: any(row.phase is RoundPhase.ABORTED for row in world.rounds()), seconds=60.0)
    assert [row.phase for row in world.rounds()] == [RoundPhase.ABORTED]
    for name in ("east", "north"):
        assert world.record(name).adapter_round == 0
        assert not {"SendConsent", "SendRelease", "OpenSum"} & set(world.silos[name].writes)
        assert require_spent(world, name) > 0, "what was submitted is spent, though nobody saw it"
