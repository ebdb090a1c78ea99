"""No update leaves before a quorum of witnesses saw what it costs; who waits for whom, and that all get through.

The agents' own wiring over real silos and a real aggregator, in one thread: while one waits, others have their turn.
"""

import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from aggregator.tables import WITNESS as AGGREGATORS
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook
from silo_agent import client, witnessing
from silo_agent.agent import Agent
from silo_agent.client import GrpcAggregator
from silo_agent.entries import Author, key_entry
from silo_agent.status import StatusBoard
from silo_agent.tables import LEDGER, WITNESS
from silo_agent.witnessing import PAUSES_S, Unwitnessed
from tests.sim.conftest import NAMES
from tests.sim.memory import Faults, MemoryChannel
from tests.sim.witnesses import Silo, all_exchange, forget
from tests.sim.world import World


class Watched(Faults):
    """What the witnesses had seen of a silo's ledger when an update of it left; `hide` hides newer states of a silo."""

    def __init__(self, world):
        super().__init__()
        self.world, self.left, self.hidden = world, [], None

    def before(self, silo, method, first):
        if method == "SubmitUpdate":
            log = f"cloister/sim/{silo}"
            with self.world.store.reading() as tx:
                seen = [WitnessBook(tx.connection, AGGREGATORS).seen(log)]
            for name in set(NAMES) - {silo}:
                with self.world.silos[name].home.store.reading() as connection:
                    seen.append(WitnessBook(connection, WITNESS).seen(log))
            with self.world.silos[silo].home.store.reading() as connection:
                size = Ledger(connection, LEDGER).size
            self.left.append((silo, sum(known is not None and known.size >= size for known in seen)))
        super().before(silo, method, first)

    def after(self, silo, method):
        if self.hidden == silo and method == "ExchangeCheckpoints":
            forget(self.world, f"cloister/sim/{silo}", self.note)
        super().after(silo, method)

    def hide(self, silo):
        with self.world.store.reading() as tx:
            self.hidden, self.note = silo, WitnessBook(tx.connection, AGGREGATORS).note(f"cloister/sim/{silo}")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 1)


@pytest.fixture
def staffed(tmp_path, monkeypatch):
    """A world whose silos' agents take part in a job, each asking for so many witnesses."""

    def made(quorums, **plan):
        world = World(tmp_path, *NAMES)
        world.faults = Watched(world)
        for name, quorum in quorums.items():
            config = world.silos[name].state / "silo.toml"
            config.write_text(f"{config.read_text()}[witnesses]\nquorum = {quorum}\n")
        world.submit(world.plan(**plan))
        agents = {}

        def others_turn(own):
            for name in set(NAMES) - {own}:
                agents[name]._exchange()
            return False

        for name, silo in world.silos.items():
            channel: Any = MemoryChannel(world.serve, silo.party, world.faults)
            port, board = GrpcAggregator(lambda c=channel: c), StatusBoard(silo.state, name, world.clock)
            agents[name] = Agent(silo.home, port, lambda: None, world.clock, board)
            monkeypatch.setattr(agents[name]._stopping, "wait", lambda _s, own=name: others_turn(own))
            with silo.home.store.writing() as tx:
                by = Author(name, "steward", "steward", world.now)
                tx.record(key_entry(by, "own", silo.party.uri, "0c" * 32, "enrolled"))
            silo.participation = agents[name]._participation(world.job, lambda _number: None)
        for _ in range(2):
            for agent in agents.values():
                agent._exchange()
        world.agents = agents
        return world

    return made


def members(world):
    return [set(row.members) for row in world.rounds() if row.phase is RoundPhase.PUBLISHED]


@pytest.mark.parametrize("quorum", [0, 3])
def test_every_update_leaves_after_its_charge_was_seen_and_nobody_waits_for_ever(staffed, quorum):
    world = staffed(dict.fromkeys(NAMES, quorum), rounds=2)
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    assert members(world) == [set(NAMES)] * 2
    assert len(world.faults.left) == 6
    assert all(agent._to_witness.is_set() for agent in world.agents.values()), "and again after a round"
    assert all(seen >= max(quorum, 1) for _, seen in world.faults.left), world.faults.left


def test_an_update_whose_charge_is_hidden_from_witnesses_stays_and_its_round_goes_by(staffed, monkeypatch):
    world = staffed({"east": 2}, rounds=2)
    refused, east = [], world.silos["east"]
    advance = east.participation.advance

    def noting():
        try:
            return advance()
        except Unwitnessed as error:
            refused.append(str(error))
            raise

    monkeypatch.setattr(east.participation, "advance", noting)
    world.faults.hide("east")
    world.run(until=lambda: len(members(world)) == 1, seconds=10.0)
    assert members(world) == [{"north", "west"}]
    assert {silo for silo, _ in world.faults.left} == {"north", "west"}
    who = r"cloister/sim/silo/north \(\d+ entries at [^)]*\), cloister/sim/silo/west \(\d+ entries at [^)]*\)\."
    assert re.search(rf"1 of 2 have cosigned this silo's \d+ ledger entries; not yet: {who}", refused[-1]), refused[-1]
    world.faults.hidden = None
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    assert members(world) == [{"north", "west"}, set(NAMES)]
    (seen,) = (seen for silo, seen in world.faults.left if silo == "east")
    assert seen >= 2


def test_without_a_quorum_an_update_waits_for_the_aggregator_to_hold_its_charge(world, silos):
    """Its word is no proof against itself; but one that has lost it says so, and the update stays."""
    east = silos["east"]
    east.exchange()
    with world.store.transaction() as tx:
        before = WitnessBook(tx.connection, AGGREGATORS).note("cloister/sim/east")
    east.append("charged")
    held = wire.ExchangedCheckpoints(newest=before.encode(), wanted=(), shown=(), witnesses=())
    forgetful = SimpleNamespace(exchange_checkpoints=lambda _asked: held)
    with pytest.raises(Unwitnessed, match="the aggregator holds 1 of this silo's 2 ledger entries"):
        east.witnessing.show(forgetful, world.clock, lambda _s: False)
    east.witnessing.show(east.port, world.clock, lambda _s: False)


def test_what_a_quorum_saw_before_an_update_left_no_restored_backup_undoes(world, silos, tmp_path):
    """Whatever the aggregator hides, and whenever it begins to: then the update stays, or the backup gets no quorum."""
    all_exchange(silos, 3)
    silos["east"].home.store.close()
    with (silos["east"].home.folder / "silo.toml").open("a") as config:
        config.write("[witnesses]\nquorum = 3\n")
    backup, east = silos["east"].copy(tmp_path / "backup"), Silo(world, "east")
    with world.store.transaction() as tx:
        before = WitnessBook(tx.connection, AGGREGATORS).note("cloister/sim/east")

    def others(_pause_s, *, hiding):
        if hiding:
            forget(world, "cloister/sim/east", before)
        all_exchange({name: silos[name] for name in ("north", "west")}, 1)
        return False

    world.now += timedelta(minutes=5)
    east.witnessing.exchange(east.port, world.now)
    east.append("charged")
    with pytest.raises(
        Unwitnessed, match=r"1 of 3 have cosigned this silo's 2 ledger entries; not yet: .*north \(1 ent"
    ):
        east.witnessing.show(east.port, world.clock, lambda s: others(s, hiding=True))
    east.witnessing.show(east.port, world.clock, lambda s: others(s, hiding=False))
    others(0, hiding=True)
    world.now += timedelta(minutes=5)
    restored = Silo(world, "east", backup)
    for _ in range(3):
        with pytest.raises(Unwitnessed, match="1 of 3 have cosigned this silo's ledger since the agent started"):
            restored.witnessing.start(restored.port, world.now)
        others(0, hiding=False)
    east.home.store.close()
    restored.home.store.close()


def test_a_wait_for_witnesses_ends_when_it_is_told_to_and_is_no_burden_to_many(world, silos, monkeypatch):
    with (silos["east"].home.folder / "silo.toml").open("a") as config:
        config.write("[witnesses]\nquorum = 4\n")
    silos["east"].home.store.close()
    east, pauses = Silo(world, "east"), []
    with pytest.raises(Unwitnessed, match=r"[01] of 4"):
        east.witnessing.show(east.port, world.clock, lambda s: pauses.append(s) or True)
    assert pauses == [PAUSES_S[0]]
    pauses.clear()
    with pytest.raises(Unwitnessed):
        east.witnessing.show(east.port, world.clock, pauses.append)
    assert tuple(pauses) == PAUSES_S
    pauses.clear()
    monkeypatch.setattr(witnessing, "MANY", 1)  # of four who are pinned
    with pytest.raises(Unwitnessed):
        east.witnessing.show(east.port, world.clock, pauses.append)
    assert pauses == [4 * pause_s for pause_s in PAUSES_S], "as rare as others' exchanges, so that it meets them"
    east.home.store.close()
