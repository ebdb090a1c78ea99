"""Rounds with one-time keys, both machines in memory: exact sums, drop-outs at every step, crashes at every write."""

import numpy as np
import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.quantise import grid_step
from privacy.suites import Suite
from silo_agent.rehearsal import rehearsal_vector
from tests.sim.world import UPDATE_RANGE, VALUES, World

FOUR = ("east", "north", "south", "west")
TEN = tuple(f"silo-{i}" for i in range(10))


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    return World(tmp_path_factory.mktemp("four") / "world", *FOUR)


@pytest.fixture(scope="session")
def ten(tmp_path_factory):
    return World(tmp_path_factory.mktemp("ten") / "world", *TEN)


def keyed(world, folder, *, colluders=1, minimum=3, rounds=1, attempts=None):
    copy = world.copy_to(folder / "world")
    copy.submit(
        copy.plan(
            suite=Suite.CKKS_MULTIKEY, colluders=colluders, minimum=minimum, rounds=rounds, attempts=attempts
        )
    )
    return copy


def require_exact(world, number=1, before=0.0):
    """What every silo that is up applied is the mean of what the members sent, to the grid."""
    row = world.rounds()[number - 1]
    assert row.phase is RoundPhase.PUBLISHED
    sent = [rehearsal_vector(name, world.job, number, VALUES, UPDATE_RANGE).astype(float) for name in row.members]
    for silo in world.silos.values():
        if silo.up:
            applied, vector = silo.adapter
            assert applied == number
            error = np.abs(vector - before - np.mean(sent, axis=0)).max()
            assert error <= grid_step(UPDATE_RANGE, 16)
            silo.check_ledger()
    return row


def test_four_silos_open_the_exact_mean_of_two_rounds(four, tmp_path):
    world = keyed(four, tmp_path, rounds=2)
    world.run()
    assert world.status().phase is JobPhase.FINISHED
    first, second = world.rounds()
    assert first.members == second.members == FOUR


def test_the_mean_is_exact(four, tmp_path):
    world = keyed(four, tmp_path)
    world.run()
    require_exact(world)
    for silo in world.silos.values():
        assert not list((silo.state / "vault").rglob("*.key")), "keys of a job that is over are erased"
