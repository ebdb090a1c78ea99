"""A curious silo, alone, against a silo whose fingerprint is late: it asks for the sum of every commit of the round.

It holds the cohort's key, so the difference of two sums would be the late silo's update. An honest aggregator gives out
one sum a round: that of the commit which nothing replaces any more.
"""

from cloister.wire import JobPhase

from aggregator.reading import ReadingDesk
from privacy.errors import ProtocolError
from silo_agent import client
from tests.sim.world import World


def test_one_sum_a_round_is_given_out(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    world = World(tmp_path / "world", "east", "north", "west")
    world.submit(world.plan())
    world.silos["west"].off_after = "SendUpdate"  # its update is in the first commit, its fingerprint never comes
    desk, answers = ReadingDesk(world.runner), []

    def curious():
        try:
            answers.append({part.seeds.silo for part in desk.sum("east", world.job, 1) if part.seeds})
        except ProtocolError as error:
            answers.append(error.why)
        return world.status().phase is JobPhase.FINISHED

    world.run(until=curious, seconds=5)
    assert "there is none (the round is FINGERPRINTING)" in answers
    assert [said for said in answers if isinstance(said, set)]
    assert all(said == {"east", "north"} for said in answers if isinstance(said, set))
    assert [row.members for row in world.rounds()] == [("east", "north")]
