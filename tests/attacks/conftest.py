"""Where attacks begin: a federation in memory that has just been founded, one at the end of a collection, one silo."""

import pytest
from cloister.wire import RoundPhase

from privacy.envelope import KeyedUpdateHeader, UpdateHeader
from tests.attacks.keyed import FOUR, KeyedWorld
from tests.attacks.lying import NAMES, LyingWorld
from tests.lone_silo import LoneSilo


@pytest.fixture(scope="session")
def founded(tmp_path_factory):
    return LyingWorld(tmp_path_factory.mktemp("founded") / "world", *NAMES)


@pytest.fixture(scope="session")
def gathered(founded, tmp_path_factory):
    """All three have submitted to round 1, and have heard of nothing since."""
    world = founded.copy_to(tmp_path_factory.mktemp("gathered") / "world")
    world.submit(world.plan(rounds=2))
    world.hold(RoundPhase.COLLECTING)
    world.run(until=lambda: all(world.said(name, UpdateHeader) for name in NAMES))
    return world


@pytest.fixture
def world(founded, tmp_path):
    """A federation of three whose job was just submitted."""
    world = founded.copy_to(tmp_path / "world")
    world.submit(world.plan(rounds=2))
    return world


@pytest.fixture
def collected(gathered, tmp_path):
    """The same three with their updates in the attacker's hands."""
    return gathered.copy_to(tmp_path / "world")


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    """Four silos whose federation has just been founded."""
    return KeyedWorld(tmp_path_factory.mktemp("four") / "world", *FOUR)


@pytest.fixture(scope="session")
def keyed_and_gathered(four, tmp_path_factory):
    """All four have submitted to round 1 of a job with one-time keys, and have heard of nothing since."""
    world = four.copy_to(tmp_path_factory.mktemp("keyed") / "world")
    world.begin()
    world.hold(RoundPhase.COLLECTING)
    world.run(until=lambda: all(world.said(name, KeyedUpdateHeader) for name in FOUR))
    return world


@pytest.fixture
def keyed(keyed_and_gathered, tmp_path):
    """The same four with their ciphertexts and share mails in the attacker's hands."""
    return keyed_and_gathered.copy_to(tmp_path / "world")


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path)
