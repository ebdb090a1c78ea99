"""Rounds with one-time keys, both machines in memory: exact sums, drop-outs at every step, crashes at every write."""

import numpy as np
import pytest
from cloister.wire import JobPhase, ModelName, RoundPhase

from aggregator.coordinator import CoordinatorDesk
from aggregator.model import ModelDesk
from privacy.errors import ProtocolError, Refused, Unavailable
from privacy.quantise import grid_step
from privacy.suites import Suite
from silo_agent.rehearsal import rehearsal_vector
from tests.sim.world import UPDATE_RANGE, World

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
        copy.plan(suite=Suite.CKKS_MULTIKEY, colluders=colluders, minimum=minimum, rounds=rounds, attempts=attempts)
    )
    return copy


def require_exact(world, number=1, before=0.0):
    """What every silo that is up applied is the mean of what the members sent, to the grid."""
    row = world.rounds()[number - 1]
    assert row.phase is RoundPhase.PUBLISHED
    sent = [rehearsal_vector(name, world.job, number, world.values, UPDATE_RANGE).astype(float) for name in row.members]
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


LAST_WRITES = (
    "Joined", "SendJoin", "Reserved", "Trained", "Sealed", "SendUpdate", "Submitted", "Fingerprinted",
    "SendFingerprint", "Consented", "SendConsent", "Certified", "Released", "SendRelease", "Unlocked", "Opened",
)  # fmt: skip


OFTEN = {"Joined", "Reserved", "Sealed", "Submitted", "Consented", "SendConsent", "Released", "Opened"}
STEPS = [after if after in OFTEN else pytest.param(after, marks=pytest.mark.slow) for after in LAST_WRITES]


@pytest.mark.parametrize("after", STEPS)
def test_any_three_of_ten_may_go_for_good_at_any_step(ten, tmp_path, after):
    """n = 10, c = 3, t = 7. The round they leave opens once they are among it; one they never joined is made up for."""
    world = keyed(ten, tmp_path, colluders=3, minimum=5, attempts=4)
    gone = TEN[:3]  # the first to act: with seven consents the others have nothing to consent to any more
    for name in gone:
        world.silos[name].off_after = after
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED, seconds=4.0)
    assert not any(world.silos[name].up for name in gone)
    published = [row for row in world.rounds() if row.phase is RoundPhase.PUBLISHED]
    assert len(published) == 1
    number = published[0].round
    assert number == (2 if after == "Joined" else 1), after
    require_exact(world, number)


@pytest.mark.parametrize("after", ["Sealed", "Fingerprinted", "Consented", "Certified"])
def test_four_of_ten_gone_for_a_round_leave_a_clean_abandonment_and_the_next_round_goes_on(ten, tmp_path, after):
    world = keyed(ten, tmp_path, colluders=3, minimum=5, attempts=4)
    gone = TEN[:4]
    for name in gone:
        world.silos[name].off_after = after
    world.run(until=lambda: world.rounds() and world.rounds()[0].phase is RoundPhase.ABORTED, seconds=4.0)
    for name in gone:
        assert not world.silos[name].up
        world.come_back(name)
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED, seconds=4.0)
    assert [row.phase for row in world.rounds()] == [RoundPhase.ABORTED, RoundPhase.PUBLISHED]
    require_exact(world, 2)


def test_a_member_of_the_roll_that_was_away_opens_the_round_later(four, tmp_path):
    world = keyed(four, tmp_path, rounds=2, attempts=4)
    world.run(until=lambda: world.silos["west"].job_state is not None and world.silos["west"].job_state.name == "READY")
    world.leave("west")
    world.run(until=lambda: world.rounds() and world.rounds()[0].phase is RoundPhase.PUBLISHED, seconds=4.0)
    world.come_back("west")
    world.run(seconds=4.0)
    assert world.status().phase is JobPhase.FINISHED
    assert {silo.adapter[0] for silo in world.silos.values()} == {2}


def model_at(world):
    return b"".join(CoordinatorDesk(world.runner, max_artifact_bytes=1).model(world.job))


def test_a_job_that_opens_to_the_aggregator_leaves_its_last_model_there(four, tmp_path):
    world = four.copy_to(tmp_path / "world")
    world.submit(world.plan(suite=Suite.CKKS_MULTIKEY, colluders=1, minimum=3, rounds=2, open_to="silos+aggregator"))
    world.run(until=lambda: world.rounds() and world.rounds()[0].phase is RoundPhase.PUBLISHED)
    with pytest.raises(ProtocolError, match="has none here yet"):
        model_at(world)
    world.run()
    number, vector = world.silos["north"].adapter
    assert number == 2
    assert model_at(world) == vector.tobytes()
    senders = [silo for (silo, method), _ in world.faults.said.items() if method.endswith("SubmitModel")]
    assert senders == ["east"], "one silo sends it, the others see that it is here"


def test_the_aggregator_keeps_no_other_model_than_the_one_agreed_on(four, tmp_path):
    world = four.copy_to(tmp_path / "world")
    world.submit(world.plan(suite=Suite.CKKS_MULTIKEY, colluders=1, minimum=3, open_to="silos+aggregator"))
    world.run(until=lambda: world.status().phase is JobPhase.FINISHED)
    desk, right = ModelDesk(world.runner), ModelName(job=world.job, round=1)
    _, vector = world.silos["north"].adapter
    data = vector.tobytes()
    for silo, named, parts, why in (
        ("east", right, [data[:-1]], "is truncated: 1199 of 1200 bytes came"),
        ("east", right, [data, b"x"], "is oversized: more than 1200 bytes"),
        ("east", right, [data[:-4], b"\0\0\0\0"], "is not the adapter that the silos reported"),
        ("east", ModelName(job=world.job, round=2), [data], "after round 2 is not wanted, but 1's"),
    ):
        with pytest.raises(ProtocolError, match=why):
            desk.submit(silo, named, parts)
    with pytest.raises(Refused, match="not in its roster"):
        desk.submit("stranger", right, [data])

    def meanwhile():
        with pytest.raises(Unavailable, match="is being sent by east"):
            desk.submit("west", right, [data])
        yield data

    desk.submit("east", right, meanwhile())
    desk.submit("west", right, iter(lambda: pytest.fail("it is here, and is not read again"), None))
    assert model_at(world) == data
    assert [path.name for path in (world.state.blobs / "models").iterdir()] == [f"{world.job.hex()}.f32"]


def test_a_job_that_opens_to_its_silos_leaves_no_model_at_the_aggregator(four, tmp_path):
    world = keyed(four, tmp_path)
    world.run()
    with pytest.raises(ProtocolError, match="opens to its silos alone"):
        model_at(world)
    assert not any(method.endswith("SubmitModel") for _, method in world.faults.said)


@pytest.mark.slow
def test_a_power_cut_at_any_durable_write_of_one_silo(four, tmp_path):
    whole = keyed(four, tmp_path / "whole")
    whole.run()
    writes = len(whole.silos["north"].writes)
    assert writes > 15
    for cut in range(1, writes + 1):
        world = keyed(four, tmp_path / f"cut-{cut}", attempts=4)
        world.silos["north"].cut_at = cut
        world.run(seconds=4.0)
        assert world.status().phase is JobPhase.FINISHED, cut
        adapters = {silo.adapter[1].tobytes() for silo in world.silos.values()}
        assert len(adapters) == 1, cut
        for silo in world.silos.values():
            silo.check_ledger()


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_a_power_cut_at_any_transaction_of_the_aggregator(four, tmp_path, before):
    whole = keyed(four, tmp_path / "whole")
    start = whole.transactions
    whole.run()
    for cut in range(start + 1, whole.transactions + 1):
        world = keyed(four, tmp_path / f"cut-{cut}", attempts=4)
        world.cut_aggregator_at, world.cut_before_commit = cut, before
        world.run(seconds=2.0)
        assert world.status().phase is JobPhase.FINISHED, cut
        assert len({silo.adapter[1].tobytes() for silo in world.silos.values()}) == 1, cut


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_silos_open_the_exact_mean_of_a_million_values(tmp_path):
    world = World(tmp_path / "world", *(f"silo-{i:02}" for i in range(100)))
    world.values = 1_000_000
    world.submit(world.plan(suite=Suite.CKKS_MULTIKEY, colluders=33, minimum=60))
    world.run()
    assert len(require_exact(world).members) == 100
