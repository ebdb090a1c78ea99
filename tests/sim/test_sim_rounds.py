"""Both programs' machines together, in memory: nobody fails, somebody fails, somebody fails at every durable write."""

import numpy as np
import pytest
from cloister.v1 import federation_pb2
from cloister.wire import JobPhase, RoundPhase

from certs.names import Role
from privacy.envelope import UpdateHeader
from privacy.quantise import grid_step
from privacy.statement import Signed, read
from privacy.transcript import Consent, RoundJoin
from silo_agent import client
from silo_agent.home import Home
from silo_agent.jobs import JobState
from silo_agent.peers import trust_peer
from silo_agent.rehearsal import rehearsal_vector
from tests.sim.world import UPDATE_RANGE, VALUES, World

NAMES = ("east", "north", "west")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A call that fails is taken up by the next turn, not repeated after a pause."""
    monkeypatch.setattr(client, "ATTEMPTS", 1)


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """A federation whose silos are enrolled and have pinned each other."""
    return World(tmp_path_factory.mktemp("seed") / "world", *NAMES)


@pytest.fixture
def world_of(seed, tmp_path):
    """Makes worlds in which a rehearsal was submitted: the same beginning each, on disks of their own."""

    def made(name="world", **plan):
        world = seed.copy_to(tmp_path / name)
        world.submit(world.plan(**plan))
        return world

    return made


def published(world):
    return [row for row in world.rounds() if row.phase is RoundPhase.PUBLISHED]


def check_finished(world, silos=NAMES):
    """The job finished; everybody holds the mean of exactly those whom the commits name; nobody said two things."""
    assert world.status().phase is JobPhase.FINISHED, world.where()
    exact = np.zeros(VALUES)
    for row in published(world):
        sent = [rehearsal_vector(n, world.job, row.round, VALUES, UPDATE_RANGE) for n in row.members]
        exact += np.mean(sent, axis=0)
    last = published(world)[-1].round
    for name in silos:
        silo = world.silos[name]
        assert silo.job_state is JobState.FINISHED, world.where()
        number, adapter = silo.adapter
        assert number == last
        assert np.abs(adapter - exact).max() <= grid_step(UPDATE_RANGE, 16) * len(published(world))
        silo.check_ledger()
    check_said_once(world)


def check_said_once(world):
    """One context, one ciphertext, one consent to a round number, ever, whatever was lost or crashed."""
    kinds = {
        "JoinRound": (RoundJoin, lambda data: federation_pb2.JoinRoundRequest.FromString(data).join),
        "SubmitUpdate": (UpdateHeader, lambda data: federation_pb2.SubmitUpdateRequest.FromString(data).header),
        "ConsentRound": (Consent, lambda data: federation_pb2.ConsentRoundRequest.FromString(data).consent),
    }
    for (silo, method), sent in world.faults.said.items():
        if method in kinds:
            kind, part = kinds[method]
            by_round = {}
            for data in sent:
                signed = Signed(part(data).body, part(data).signature)
                by_round.setdefault(read(signed, kind).round, set()).add(signed)
            assert all(len(versions) == 1 for versions in by_round.values()), (silo, method)


def test_nobody_fails(world_of):
    world = world_of(rounds=2)
    world.run()
    check_finished(world)
    assert [row.members for row in published(world)] == [NAMES, NAMES]


def test_a_silo_that_leaves_costs_its_part_and_catches_up(world_of):
    world = world_of(rounds=3)
    world.silos["west"].off_after = "SendFingerprint"
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED, seconds=10)
    assert not world.silos["west"].up
    world.come_back("west")
    world.run()
    check_finished(world)
    assert {row.members for row in published(world)} == {NAMES, ("east", "north")}


def test_a_silo_that_pins_another_key_of_the_aggregators_catches_up_with_what_is_over(world_of):
    world = world_of(rounds=3)
    world.silos["west"].off_after = "SendFingerprint"
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED, seconds=10)
    assert not world.silos["west"].up
    home = Home.open(world.silos["west"].state, {})
    with home.store.writing() as tx:
        trust_peer(tx.connection, Role.AGGREGATOR, "aggregator", " ".join(["0c0c"] * 16), world.now)
    home.store.close()
    world.come_back("west")
    world.run()
    check_finished(world)


def test_a_silo_that_leaves_before_its_fingerprint_is_left_out_of_the_sum(world_of):
    world = world_of()
    world.silos["west"].off_after = "SendUpdate"
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED, seconds=10)
    world.come_back("west")
    world.run()
    assert [(row.round, row.members) for row in published(world)] == [(1, ("east", "north"))]
    check_finished(world)


def test_a_silo_that_leaves_before_it_submits_is_not_in_the_sum(world_of):
    world = world_of()
    world.silos["west"].off_after = "SendJoin"
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED, seconds=10)
    world.come_back("west")
    world.run()
    assert [row.members for row in published(world)] == [("east", "north")]
    check_finished(world)


def test_too_few_silos_publish_nothing(world_of):
    world = world_of(minimum=3, attempts=2)
    world.silos["west"].off_after = "SendJoin"
    for _ in range(30):
        world.turn(seconds=30)
    assert published(world) == []
    assert all(world.silos[name].adapter[0] == 0 for name in NAMES)
    check_said_once(world)


METHODS = (
    "JoinJob",
    "DealKey",
    "JoinRound",
    "SubmitUpdate",
    "SendFingerprint",
    "FetchSum",
    "ConsentRound",
    "ReportApplied",
    "GetRound",
)


@pytest.mark.parametrize("method", METHODS)
def test_lost_requests_and_replies_change_nothing(world_of, method):
    world = world_of()
    world.faults.lose_request |= {(name, method) for name in NAMES}
    world.faults.lose_reply |= {(name, method) for name in NAMES}
    world.run()
    check_finished(world)
    assert [(row.round, row.members) for row in published(world)] == [(1, NAMES)]


def writes_of_a_round(world_of):
    """Durable writes by silo, and the aggregator's first and last transaction after the job was submitted."""
    world = world_of("clean")
    first = world.transactions + 1
    world.run()
    return {name: len(world.silos[name].writes) for name in NAMES}, range(first, world.transactions + 1)


def cut_silo(world_of, name, number):
    world = world_of(f"{name}-{number}")
    world.silos[name].cut_at = number
    world.run(seconds=5)
    assert world.silos[name].cut_at is None, "the power was never cut"
    check_finished(world)


def cut_aggregator(world_of, number, *, before_commit):
    world = world_of(f"{number}-{before_commit}")
    world.cut_aggregator_at, world.cut_before_commit = number, before_commit
    world.run(seconds=5)
    assert world.cuts == 1, "the power was never cut"
    check_finished(world)


def test_a_silo_cut_off_at_some_durable_writes(world_of):
    counts, _ = writes_of_a_round(world_of)
    for number in range(2, min(counts.values()), 5):
        cut_silo(world_of, "north", number)


def test_the_aggregator_cut_off_at_some_durable_writes(world_of):
    _, transactions = writes_of_a_round(world_of)
    for number in transactions[::7]:
        cut_aggregator(world_of, number, before_commit=number % 2 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:2])
def test_a_silo_cut_off_at_every_durable_write(world_of, name):
    counts, _ = writes_of_a_round(world_of)
    assert counts[name] >= 12
    for number in range(1, min(counts.values()) + 1):  # one silo more or less deals the key: the least of all happens
        cut_silo(world_of, name, number)


@pytest.mark.slow
@pytest.mark.parametrize("before_commit", [True, False])
def test_the_aggregator_cut_off_at_every_durable_write(world_of, before_commit):
    _, transactions = writes_of_a_round(world_of)
    assert len(transactions) >= 15
    for number in transactions:
        cut_aggregator(world_of, number, before_commit=before_commit)
