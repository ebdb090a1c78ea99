"""Adaptive server optimisers in whole jobs: every silo keeps the same moments, also one that was cut off or away."""

import numpy as np
import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.plan import AdaptiveServer
from privacy.server import first_moments, server_step
from privacy.suites import Suite
from silo_agent.rehearsal import rehearsal_vector
from tests.sim.world import UPDATE_RANGE, VALUES, World

FOUR = ("east", "north", "south", "west")
RATE = 0.05
GRID = 1e-3  # over the grid's step


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return World(tmp_path_factory.mktemp("four") / "world", *FOUR)


def begun(four, folder, kind, rounds=3):
    world = four.copy_to(folder / "world")
    beta2 = 0.0 if kind == "adagrad" else 0.9
    server = AdaptiveServer(kind=kind, learning_rate=RATE, beta1=0.5, beta2=beta2, adaptivity=1e-2)
    plan = world.plan(suite=Suite.CKKS_MULTIKEY, colluders=1, minimum=3, rounds=rounds, attempts=6)
    world.submit(plan.model_copy(update={"server": server}))
    return world, server


def require_followed(world, server):
    """Every silo has the same bytes, and they are what the optimiser makes of the exact means, to the grid's step.

    FedYogi takes the sign of v - mean^2: where the two meet within the grid's step, it may come out either way.
    """
    adapters = {silo.adapter[1].tobytes() for silo in world.silos.values()}
    assert len(adapters) == 1
    expected, moments = np.zeros(VALUES), first_moments(server, VALUES)
    torn = np.zeros(VALUES, bool)
    for row in world.rounds():
        if row.phase is RoundPhase.PUBLISHED:
            exact = [rehearsal_vector(name, world.job, row.round, VALUES, UPDATE_RANGE) for name in row.members]
            mean = np.mean(exact, axis=0, dtype=np.float64)
            if server.kind == "yogi":
                torn |= np.abs(np.abs(mean) - np.sqrt(moments.second)) < GRID
            expected += server_step(server, mean, moments)
    found = np.frombuffer(adapters.pop(), np.float32)
    assert np.abs(found - expected)[~torn].max() < 0.02 * RATE
    assert np.count_nonzero(torn) < VALUES / 20
    assert np.abs(found).max() > RATE / 2, "it moved"


@pytest.mark.parametrize("kind", ["adagrad", "adam", "yogi"])
def test_three_rounds_at_four_silos(four, tmp_path, kind):
    world, server = begun(four, tmp_path, kind)
    world.run()
    assert world.status().phase is JobPhase.FINISHED
    require_followed(world, server)


@pytest.mark.parametrize("after", ["Unlocked", "OpenSum", "Opened", "SendApplied", "Applied"])
def test_a_power_cut_around_the_opening(four, tmp_path, after):
    """What was opened before the cut is opened again from the moments of the round before, not from its own."""
    world, server = begun(four, tmp_path, "yogi")
    world.silos["north"].off_after = after
    world.run(until=lambda: not world.silos["north"].up, seconds=2.0)
    world.come_back("north")
    world.run(seconds=2.0)
    assert world.status().phase is JobPhase.FINISHED
    require_followed(world, server)


def test_a_silo_that_was_away_catches_up_round_by_round(four, tmp_path):
    world, server = begun(four, tmp_path, "adam")
    world.run(until=lambda: any(row.phase is RoundPhase.PUBLISHED for row in world.rounds()))
    world.leave("west")
    world.run(until=lambda: sum(row.phase is RoundPhase.PUBLISHED for row in world.rounds()) == 2, seconds=4.0)
    world.come_back("west")
    world.run(seconds=4.0)
    assert world.status().phase is JobPhase.FINISHED
    require_followed(world, server)
