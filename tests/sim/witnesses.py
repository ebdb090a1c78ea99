"""Silos of a simulated federation as their agents' witness threads see them."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aggregator.tables import WITNESS as AGGREGATORS
from aggregator.witness_post import WitnessPost
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook
from silo_agent import rotation
from silo_agent.client import GrpcAggregator
from silo_agent.entries import Author, key_entry
from silo_agent.home import Home
from silo_agent.tables import LEDGER, WITNESS
from silo_agent.witnessing import Witnessing
from tests.sim.memory import MemoryChannel
from tests.sim.world import World


class Silo:
    """A silo's state folder, opened, as its agent's witness thread sees it."""

    def __init__(self, world: World, name: str, folder: Path | None = None) -> None:
        self.world, self.name = world, name
        self.home = Home.open(folder or world.silos[name].state, {})
        channel: Any = MemoryChannel(world.serve, world.silos[name].party, world.faults)
        self.port = GrpcAggregator(lambda: channel)
        self.witnessing = Witnessing(self.home, world.now)

    def append(self, reason: str = "pinned again") -> None:
        with self.home.store.writing() as tx:
            by = Author(self.name, "steward", "steward", self.world.now)
            tx.record(key_entry(by, "pinned", "cloister://sim/silo/other", "0c" * 32, reason))

    def rotate(self) -> None:
        """`cloister silo rotate-key`, and the agent's start after it."""
        self.home.store.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rotation, "ask", lambda _, requests: self.world.certified(self.name, requests))
            by = Author(self.name, "steward", "steward", self.world.now)
            rotation.rotate(self.home, self.world.invitation(self.name), "every year", by)
        self.home = Home.open(self.home.folder, {})
        self.witnessing = Witnessing(self.home, self.world.now)

    def exchange(self) -> frozenset[str]:
        return self.witnessing.exchange(self.port, self.world.now)

    @property
    def size(self) -> int:
        with self.home.store.reading() as connection:
            return Ledger(connection, LEDGER).size

    def notes(self) -> tuple[str, ...]:
        with self.home.store.reading() as connection:
            return tuple(Ledger(connection, LEDGER).notes())

    def read(self, what: Callable[[WitnessBook], Any]) -> Any:
        with self.home.store.reading() as connection:
            return what(WitnessBook(connection, WITNESS))

    def copy(self, to: Path) -> Path:
        self.home.store.close()
        shutil.copytree(self.home.folder, to)
        return to


def all_exchange(silos: Mapping[str, Silo], times: int = 2) -> None:
    for _ in range(times):
        for silo in silos.values():
            silo.exchange()


def forget(world: World, log: str, note: str) -> None:
    """The aggregator goes back to an older checkpoint of a log, as if it had seen no newer one."""
    assert world.store is not None
    with world.store.transaction() as tx:
        WitnessBook(tx.connection, AGGREGATORS).saw(log, note)
        WitnessPost(tx.connection).drop_proofs(log)
