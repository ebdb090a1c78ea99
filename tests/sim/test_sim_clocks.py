"""Witnesses and clocks: which times of cosignatures count, and what is said when two clocks differ."""

from datetime import timedelta

import pytest

from aggregator.witness_post import WitnessPost
from certs.times import utc_text
from privacy.errors import ConfigError
from silo_agent.witnessing import Unwitnessed, Witnessing
from tests.sim.witnesses import Silo, all_exchange

ALL = frozenset({"cloister/sim/silo/north", "cloister/sim/silo/west", "cloister/sim/aggregator/aggregator"})


@pytest.mark.parametrize("off", [timedelta(hours=2), -timedelta(days=3, minutes=2)])
def test_a_clock_that_is_wrong_is_named_and_nothing_is_taken_up(world, silos, off):
    """One that is ahead waits for cosignatures from its future; one that is behind takes old ones for new."""
    all_exchange(silos, 3)
    world.now += timedelta(days=3, minutes=1)
    east = silos["east"]
    east.witnessing = Witnessing(east.home, world.now + off)
    said = rf"clock: this machine's says {utc_text(world.now + off)}, and cloister/sim/aggregator/aggregator cosigned"
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"{said} just now at {utc_text(world.now)}\. .*timedatectl"):
            east.witnessing.start(east.port, world.now + off)
    assert east.exchange() == {"cloister/sim/aggregator/aggregator"}, "of the others, those count that come now"
    all_exchange({name: silos[name] for name in ("north", "west")}, 1)
    assert east.exchange() == ALL, "once it was set right"


def test_a_clock_that_is_a_little_ahead_shows_in_what_is_waited_for(world, silos):
    all_exchange(silos, 3)
    home = silos["east"].home
    with (home.folder / "silo.toml").open("a") as config:
        config.write("[witnesses]\nquorum = 3\n")
    silos["east"].home.store.close()
    east = Silo(world, "east")
    own = world.now + timedelta(minutes=50)
    east.witnessing = Witnessing(east.home, own)
    said = rf"0 of 3 have cosigned this silo's ledger since the agent started at {utc_text(own)}; not yet: "
    with pytest.raises(Unwitnessed, match=said + rf".*north \(1 entries at {utc_text(world.now)}\)"):
        east.witnessing.start(east.port, own)
    east.home.store.close()


def test_a_ledger_with_an_entry_of_the_future_is_shown_to_nobody(world, silos):
    """Cosigned before the time that it states, it would never verify."""
    east, signed = silos["east"], silos["east"].notes()
    world.now += timedelta(hours=2)
    east.append("by a clock that was ahead")
    world.now -= timedelta(hours=2)
    with pytest.raises(ConfigError, match=r"it has an entry of .*A clock that was wrong"):
        east.exchange()
    assert east.notes() == signed
    world.now += timedelta(hours=2)
    assert east.exchange() == {"cloister/sim/aggregator/aggregator"}


def test_a_cosignature_from_the_future_does_not_count(world, silos):
    """It is by a clock that is wrong, there or here."""
    all_exchange(silos, 3)
    right, world.now = world.now, world.now + timedelta(hours=2)
    silos["north"].exchange()
    with world.store.transaction() as tx:  # the owner asks for later ones than it has
        WitnessPost(tx.connection).want_since("cloister/sim/east", int(world.now.timestamp()))
    silos["north"].exchange()
    world.now = right
    assert silos["east"].exchange() == ALL - {"cloister/sim/silo/north"}
