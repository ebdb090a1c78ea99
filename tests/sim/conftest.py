"""Three silos of a simulated federation, each with an entry in its ledger, for the tests of witnesses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.witnesses import Silo
from tests.sim.world import World

NAMES = ("east", "north", "west")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, *NAMES)


@pytest.fixture
def silos(world: World) -> Iterator[dict[str, Silo]]:
    found = {name: Silo(world, name) for name in NAMES}
    for silo in found.values():
        silo.append()
    yield found
    for silo in found.values():
        silo.home.store.close()
