"""The aggregator runs one job twice: each half of the cohort is told that the others never joined.

Every signature would be real: each half makes its own key and goes on with its own model, under one job's name, and no
silo can see that there is another half. So no roll is taken and no round joined by half of the roster or less, whatever
the plan's minimum is: two cohorts of one job would share a silo, and that accepts one roll.
"""

import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.roll import JobJoin, KeyDeal
from privacy.transcript import RoundJoin
from silo_agent.jobs import JobState
from tests.attacks.lying import LyingWorld

HALVES = ("east", "north"), ("south", "west")
ALL = tuple(name for half in HALVES for name in half)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return LyingWorld(tmp_path_factory.mktemp("four") / "world", *ALL)


@pytest.fixture
def half(four, tmp_path):
    """One of the two aggregators: only these silos are put through to it, and two may make a sum."""
    world = four.copy_to(tmp_path / "world")
    world.submit(world.plan(minimum=2))
    for name in HALVES[1]:
        world.leave(name)
    return world


def test_the_program_stops_a_job_that_half_of_the_roster_joined(half):
    half.run(until=lambda: half.status().phase.closed, seconds=30)
    assert half.status().phase is JobPhase.STOPPED
    assert half.status().reason == "2 silos are in; of 4 it takes 3"


def test_half_of_the_roster_takes_no_roll_of_its_own(half):
    """The attacker's program goes on with two all the same."""
    half.run(until=lambda: all(half.said(name, JobJoin) for name in HALVES[0]))
    half.show_job(lambda _silo, job: job.model_copy(update={"phase": JobPhase.DEALING}))
    half.run(until=lambda: half.complaints.keys() >= set(HALVES[0]))
    for name in HALVES[0]:
        assert half.complaints[name].why == "has 2 silos; of 4 in the roster it takes 3"
        assert half.said(name, KeyDeal) == []
        assert half.silos[name].job_state is JobState.JOINED


def test_half_of_the_roster_joins_no_round_of_its_own(four, tmp_path):
    """All four are in the roll here, and the round is announced to two as if the others were away."""
    world = four.copy_to(tmp_path / "world")
    world.submit(world.plan(minimum=2))
    world.show_round(
        lambda silo, view: view.model_copy(
            update={
                "phase": RoundPhase.ANNOUNCED,
                "participants": next(half for half in HALVES if silo in half),
            }
        )
    )
    world.run(until=lambda: world.complaints.keys() >= set(ALL))
    for name in ALL:
        assert "has 2 participants; of 4 in the roster it takes 3" in world.complaints[name].why
        assert world.said(name, RoundJoin) == []
