"""Somebody keeps all mail and all ciphertexts of a job, and breaks into every silo once the job is over.

Mail and cohort keys are made for one job and erased with it: neither the identity key nor anything else that stays at a
silo opens what was kept. A limit of `ckks-group`: until the job is over one silo's key opens all of it, round by round.
"""

import pytest
from cloister.wire import RoundPhase

from privacy.ckks.group import GroupKey
from privacy.ckks.params import GroupParams
from privacy.errors import ConfigError
from silo_agent.vault import Secret
from tests.attacks.lying import LAYOUT, NAMES
from tests.cohort import open_all

KEYS = (Secret.MAIL_KEY, Secret.COHORT_KEY)


def found_at(silo, keys):
    """Which of these keys stand in any file of the silo's state folder."""
    files = [path.read_bytes() for path in silo.state.rglob("*") if path.is_file()]
    return {secret for secret, key in keys.items() if any(key in data for data in files)}


def test_nothing_at_any_silo_opens_what_was_kept(collected):
    world = collected
    keys = {name: {each: world.silos[name].home.vault.get(world.job, each) for each in KEYS} for name in NAMES}
    kept = world.updates()
    cohort_key = GroupKey.from_bytes(keys["east"][Secret.COHORT_KEY])
    assert [found_at(world.silos[name], keys[name]) for name in NAMES] == [set(KEYS)] * 3
    assert len(open_all(cohort_key, GroupParams(16, 3), LAYOUT, kept["west"][1].chunks, [kept["west"][1].seeds])) > 0

    world.run()
    for name in NAMES:
        assert world.silos[name].job_state.over
        assert found_at(world.silos[name], keys[name]) == set()
        with pytest.raises(ConfigError):
            world.silos[name].home.vault.get(world.job, Secret.COHORT_KEY)
    assert world.rounds()[0].phase is RoundPhase.PUBLISHED
