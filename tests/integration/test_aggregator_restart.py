"""A real aggregator process, killed by SIGKILL in the states of a job and a round: it takes up where it was."""

import threading
from pathlib import Path

import grpc
import pytest
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from aggregator.config import StateFolder
from federation.processes import Daemon, wait_until
from privacy.roll import check_roll, dealer_of
from tests.integration.test_aggregator_service import added
from tests.scripted import Cast, found_aggregator, make_cast


class Aggregator:
    """A process on a state folder."""

    def __init__(self, state: StateFolder, log: Path) -> None:
        self.state = state
        self.daemon = Daemon("aggregator", ["aggregator", "run", "--state", str(state.root)], log)
        self.start()

    def start(self) -> None:
        self.state.ready.unlink(missing_ok=True)
        self.daemon.start()
        wait_until(self.state.ready.exists, what="the start", timeout_s=60, daemons=[self.daemon])

    def kill(self) -> None:
        self.daemon.kill()
        self.start()


@pytest.fixture(name="aggregator")
def _aggregator(tmp_path: Path):
    state = found_aggregator(tmp_path / "aggregator", restart_grace_s=60.0)
    aggregator = Aggregator(state, tmp_path / "log")
    yield aggregator
    aggregator.daemon.kill()


def where(cast: Cast) -> tuple[JobPhase, int, RoundPhase]:
    status = cast.status()
    return status.phase, status.round, status.round_phase


def test_killed_in_every_state(aggregator: Aggregator, tmp_path: Path) -> None:
    cast = make_cast(tmp_path, aggregator.state, task={"kind": "rehearsal", "values": 250_000, "update_range": 1.0})
    with cast.coordinator() as coordinator:
        coordinator.submit(cast.write_job(tmp_path / "job"))
    one, two, three = cast.all

    def kill_at(job: JobPhase, number: int, phase: RoundPhase) -> None:
        assert where(cast) == (job, number, phase)
        for silo in cast.all:
            silo.close()
        aggregator.kill()
        for silo in cast.all:
            silo.dial()
        assert where(cast) == (job, number, phase)

    first = one.join_job()
    one.call("JoinJob", wire.JoinJobRequest(join=first))  # a retry of stored bytes
    two.join_job()
    kill_at(JobPhase.JOINING, 0, RoundPhase.NONE)
    assert [silo.joined for silo in cast.status().silos] == [True, True, False]
    one.call("JoinJob", wire.JoinJobRequest(join=first))
    three.join_job()
    kill_at(JobPhase.DEALING, 0, RoundPhase.NONE)
    cast.silos[dealer_of(cast.plan.digest(), check_roll(cast.plan, one.job_view().joins))].deal()
    assert sum(len(silo.job_view().mail) > 0 for silo in cast.all) == 2
    for silo in cast.all:
        next(silo.follow())
    one.join_round()
    kill_at(JobPhase.RUNNING, 1, RoundPhase.ANNOUNCED)
    assert len(one.round().joins) == 1
    two.join_round()
    three.join_round()
    one.submit(cast.update_of("silo-a"))
    half, let_go = leave_an_upload_half_way(cast, aggregator)
    kill_at(JobPhase.RUNNING, 1, RoundPhase.COLLECTING)
    let_go.set()
    assert half.exception() is not None
    spool = aggregator.state.blobs / cast.plan.digest().hex() / "1"
    assert {path.suffix for path in spool.iterdir()} == {".residues", ".seeds"}
    one.submit(cast.update_of("silo-a"))  # not added twice
    two.submit(cast.update_of("silo-b"))
    three.withdraw()
    before = one.round().commit
    one.fingerprint()
    kill_at(JobPhase.RUNNING, 1, RoundPhase.FINGERPRINTING)
    two.fingerprint()
    one.consent()
    kill_at(JobPhase.RUNNING, 1, RoundPhase.COMMITTED)
    assert one.round().commit == before  # one commit a round, ever
    assert one.sum()[1] == added([cast.update_of("silo-a"), cast.update_of("silo-b")], 250_000)
    two.consent()
    one.applied()
    kill_at(JobPhase.RUNNING, 1, RoundPhase.RELEASING)
    two.applied()
    assert where(cast) == (JobPhase.FINISHED, 1, RoundPhase.PUBLISHED)
    three.applied()  # it was down, opened the sum later, and says so
    assert three.sum()[1] == one.sum()[1]
    for silo in cast.all:
        silo.close()


def leave_an_upload_half_way(cast: Cast, aggregator: Aggregator) -> tuple[grpc.Future, threading.Event]:
    """The second silo's header, seeds and first chunk are on their way when the aggregator is killed."""
    two, update = cast.silos["silo-b"], cast.update_of("silo-b")
    header, let_go = two.header(update), threading.Event()

    def parts():
        for part in [wire.UpdatePart(header=header), *two.parts(update)[:-1]]:
            yield part.encode()
        let_go.wait(60)
        yield from ()

    call = two.stub.SubmitUpdate.future(parts(), timeout=60)
    folder = aggregator.state.blobs / cast.plan.digest().hex() / "1"
    wait_until(
        lambda: any(path.stat().st_size > 900_000 for path in folder.glob("*.residues.part")),
        what="the half upload",
        timeout_s=20,
        daemons=[aggregator.daemon],
    )
    return call, let_go
