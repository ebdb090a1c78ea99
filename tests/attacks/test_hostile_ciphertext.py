"""A silo of the job sends hostile bytes in the place of its ciphertext, to break the aggregator or everybody's round.

What is not a whole, reduced ciphertext under its own signed header costs the round only that silo: the others' sum is
exact. A limit: residues that are well formed, signed for and mean nothing look like any ciphertext. The sum that they
are in does not open, at anybody; nothing is applied, nothing leaks, and the job stops: a member can deny service.
"""

import numpy as np
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from privacy.ckks.group import GroupKey
from privacy.ckks.params import PRIME
from privacy.errors import ProtocolError
from privacy.quantise import grid_step
from privacy.transcript import Consent
from silo_agent.rehearsal import rehearsal_vector
from silo_agent.vault import Secret
from tests.attacks.lying import NAMES
from tests.sim.world import UPDATE_RANGE, VALUES

HOSTILE = {
    "is truncated": lambda residues: residues[:-8],
    "is oversized": lambda residues: residues + bytes(8),
    "is not reduced modulo p": lambda residues: residues[:-8] + int(PRIME).to_bytes(8, "little"),
    "are not those of the signed header": lambda residues: random_residues(len(residues) // 8),
}


def random_residues(count):
    return np.random.default_rng(1).integers(0, PRIME, count, dtype=np.uint64).tobytes()


def test_malformed_residues_cost_the_round_only_their_silo(world):
    """West sends them all, one after another."""

    def attack(silo, parts, honest):
        parts = list(parts)
        if silo != "west":
            return honest(iter(parts))
        residues = wire.UpdatePart.decode(parts[-1]).residues
        for change in HOSTILE.values():
            hostile = wire.UpdatePart(residues=change(residues)).encode()
            try:
                honest(iter([*parts[:-1], hostile]))
            except ProtocolError as error:
                refusals.append(error)
        raise refusals[-1]

    refusals: list[ProtocolError] = []
    world.lies["SubmitUpdate"] = attack
    world.run(until=lambda: all(world.silos[name].adapter[0] == 1 for name in NAMES), seconds=15)
    for refusal, why in zip(refusals, HOSTILE, strict=True):
        assert refusal.sender == "west"
        assert why in f"{refusal.what} {refusal.why}"
    assert world.rounds()[0].members == ("east", "north")
    exact = np.mean([rehearsal_vector(name, world.job, 1, VALUES, UPDATE_RANGE) for name in ("east", "north")], axis=0)
    for name in NAMES:
        assert np.abs(world.silos[name].adapter[1] - exact).max() <= grid_step(UPDATE_RANGE, 16)


def test_well_formed_nonsense_stops_the_job_and_opens_nothing(world):
    """West seals under a key of its own and says that it was the cohort's."""
    world.hold(RoundPhase.ANNOUNCED)
    world.run(until=lambda: all(world.states().get(name) == "Joined" for name in NAMES))
    west = world.silos["west"].home
    west.vault.put(world.job, Secret.COHORT_KEY, GroupKey.generate().to_bytes(), replace=True)
    world.lies.clear()
    world.run(until=lambda: world.status().phase.closed, seconds=10)
    consents = [signed for name in NAMES for signed in world.said(name, Consent)]
    assert len(consents) == 2, "as many as it takes: nobody can tell before the sum is opened"
    assert world.states() == dict.fromkeys(NAMES, "Refused")
    assert all(world.silos[name].adapter[0] == 0 for name in NAMES)
    assert world.status().phase is JobPhase.STOPPED
    assert "nobody applied the certified sum" in world.status().reason
