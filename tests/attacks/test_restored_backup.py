"""A silo's state folder is put back to an earlier day: it no longer knows what it signed, nor what it spent.

Beside an honest aggregator it finds its own name in a round that it knows nothing of, and refuses. A limit: a lying
aggregator that times it well has a silo that consents twice, as a colluder would, and then two sums of one round can be
certified. Nothing at the silo itself can tell; a plan whose `tolerated_colluders` counts such a silo has a threshold
that two certificates do not reach (tests/unit/test_thresholds.py). Budget comes back as well, until an auditor holds
the ledger against a checkpoint from before.
"""

import shutil

import numpy as np
import pytest
from cloister.wire import RoundPhase

from privacy.errors import VerificationError
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.verify import verify_log
from privacy.quantise import grid_step
from privacy.transcript import Consent, RoundJoin
from runtime.ledger_store import Ledger
from silo_agent.rehearsal import rehearsal_vector
from silo_agent.tables import LEDGER
from tests.attacks.lying import NAMES, Version, everybody, hear
from tests.lone_silo import LoneSilo
from tests.sim.world import UPDATE_RANGE, VALUES


def back_up(world, name):
    kept = world.folder / f"backup-of-{name}"
    shutil.copytree(world.silos[name].state, kept)
    return kept


def restore(world, name, kept):
    silo = world.silos[name]
    silo.home.store.close()
    shutil.rmtree(silo.state)
    shutil.copytree(kept, silo.state)
    silo.home = None
    silo.boot()


def test_of_a_round_that_it_forgot_it_refuses_what_is_there_in_its_name(world):
    """The backup is from before it trained; the round was opened meanwhile."""
    world.hold(RoundPhase.ANNOUNCED)
    world.run(until=lambda: world.states().get("east") == "Joined")
    kept = back_up(world, "east")
    world.lies.clear()
    world.run(until=lambda: world.silos["north"].adapter[0] == 1)
    said = {kind: world.said("east", kind) for kind in (RoundJoin, Consent)}
    restore(world, "east", kept)
    for _ in range(3):
        world.turn()
    assert world.states()["east"] == "Refused"
    assert "holds an update in this silo's name, which sent none" in world.why("east")
    assert {kind: world.said("east", kind) for kind in (RoundJoin, Consent)} == said
    assert world.silos["east"].adapter[0] == 0


def test_after_its_consent_was_forgotten_it_opens_what_the_others_certified(collected):
    """The backup is from after it submitted: its update is known to it, and in the sum."""
    world, kept = collected, back_up(collected, "east")
    world.run(until=lambda: world.silos["north"].adapter[0] == 1)
    said = world.said("east", Consent)
    restore(world, "east", kept)
    world.run(until=lambda: world.silos["east"].adapter[0] == 1)
    assert world.said("east", Consent) == said


def test_limit_two_sums_of_one_round_are_certified_by_a_silo_that_was_set_back_in_between(collected):
    """East consents to the sum of all, is restored, and consents to the sum without west."""
    world = collected
    whole, rest = Version(world), Version(world, ("east", "north"), attempt=2)
    world.tell(everybody(whole, RoundPhase.FINGERPRINTING))
    kept = back_up(world, "east")
    to_west = (whole, RoundPhase.COMMITTED)
    world.tell({"east": to_west, "north": (rest, RoundPhase.FINGERPRINTING), "west": to_west})
    restore(world, "east", kept)
    for phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED):
        world.tell({"east": (rest, phase), "north": (rest, phase), "west": to_west})
    assert len(world.said("east", Consent)) == 2
    assert (len(whole.consents), len(rest.consents)) == (2, 2)
    world.tell(hear(RoundPhase.RELEASING, east=rest, north=rest, west=whole))
    assert world.states() == dict.fromkeys(NAMES, "Applied")
    (_, of_all), (_, without_west) = world.silos["west"].adapter, world.silos["north"].adapter
    difference = 3 * of_all - 2 * without_west
    victim = rehearsal_vector("west", world.job, 1, VALUES, UPDATE_RANGE)
    assert np.abs(difference - victim).max() <= 5 * grid_step(UPDATE_RANGE, 16), "who has both adapters has the update"


def test_budget_that_came_back_shows_against_an_earlier_checkpoint(tmp_path_factory):
    """An auditor kept the checkpoint that the silo published when the round was spent."""
    folder, kept = tmp_path_factory.mktemp("silo"), tmp_path_factory.mktemp("backup")
    silo = LoneSilo(folder, charged=True)
    shutil.copytree(silo.folder, kept, dirs_exist_ok=True)
    silo.to_submitted()
    silo.verify()
    (published,) = log_of(silo)[1]
    assert silo.budget.spent_epsilon > 0
    silo.home.store.close()
    shutil.rmtree(silo.folder)
    shutil.copytree(kept, silo.folder)
    silo.start()
    assert silo.budget.spent_epsilon == 0, "what was spent came back"
    silo.port.phase = RoundPhase.ANNOUNCED
    silo.port.joins.clear()
    silo.to_submitted()
    silo.verify()
    bodies, notes, leaves = log_of(silo)
    origin, key = log_origin("test", "east"), silo.home.identity.public_key
    verify_log(bodies, notes, origin, key, leaves)
    with pytest.raises(VerificationError):
        verify_log(bodies, [published, *notes], origin, key, leaves)


def log_of(silo):
    with silo.home.store.reading() as connection:
        ledger = Ledger(connection, LEDGER)
        return list(ledger.entries()), ledger.notes(), ledger.leaf_hashes(ledger.size)
