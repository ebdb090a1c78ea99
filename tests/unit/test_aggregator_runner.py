"""The runner: one stream and one upload a silo, who is no longer admitted goes, readers wait for no step, and what a
crash or a failed transaction leaves behind is made good.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cloister import wire

from aggregator import job as jobs
from aggregator.blobs import Blobs
from aggregator.coordinator import CoordinatorDesk
from aggregator.job_events import CoordinatorCancelled
from aggregator.metrics import AggregatorMetrics
from aggregator.presence import Stream
from aggregator.reading import ReadingDesk
from aggregator.runner import RETRY_S
from aggregator.service import FederationService
from aggregator.slots import UploadSlots
from certs.names import PartyId, Role
from privacy.errors import ProtocolError, Refused, Unavailable
from privacy.transcript import Applied
from tests.scripted import fake_update
from tests.sim.memory import MemoryContext
from tests.unit.test_aggregator_rebuild import NAMES, Office

PATIENCE_S = 20


@pytest.fixture(name="office")
def _office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture(name="dealt")
def _dealt(office: Office) -> Office:
    """The key is dealt; nobody is connected."""
    office.join(*NAMES)
    office.deal()
    return office


@pytest.fixture(name="running")
def _running(dealt: Office) -> Office:
    """Round 1 is announced to all three."""
    dealt.connect(*NAMES)
    return dealt


def reason(office: Office) -> str:
    (status,) = CoordinatorDesk(office.runner, max_artifact_bytes=1).statuses()
    return status.reason


def revoked() -> None:
    raise Refused("certificate", "has been revoked", "Ask.")


class Cancels:
    """Counts how often it was called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


# -- streams and uploads ---------------------------------------------------------------------------------------------


def test_the_newest_stream_of_a_silo_replaces_the_older(office: Office) -> None:
    cancels = Cancels()
    older, newer = Stream("a", cancel=cancels), Stream("a")
    office.runner.open_stream(older)
    office.runner.open_stream(newer)
    assert (older.closed, cancels.count, newer.closed) == (True, 1, False)
    assert list(office.runner.changes(older, lambda: None)) == []
    office.runner._departed(older)
    assert office.runner.presence.connected == {"a"}
    office.runner._departed(newer)
    assert office.runner.presence.connected == frozenset()


def test_who_is_no_longer_admitted_is_not_connected_and_not_waited_for(dealt: Office) -> None:
    cancels, watch = Cancels(), Stream(None, revoked)
    dealt.runner.open_stream(Stream("c", revoked, cancels))
    dealt.runner.open_stream(watch)
    dealt.runner._recheck_streams()
    assert (cancels.count, watch.closed) == (1, True)
    dealt.connect("a", "b")
    dealt.late()
    assert dealt.ctx().participants == ("a", "b")


def test_one_upload_a_silo_and_none_after_the_collection(running: Office) -> None:
    running.join_round(*NAMES)
    first, second = Cancels(), Cancels()
    with running.runner.uploading(running.job, 1, "c", first):
        assert first.count == 0
        with running.runner.uploading(running.job, 1, "c", second):
            assert (first.count, second.count) == (1, 0)
            running.submit("a", "b")
            assert second.count == 0
            running.late()
            assert second.count == 1
    with (
        pytest.raises(ProtocolError, match="round 1: takes no update"),
        running.runner.uploading(running.job, 1, "c", first),
    ):
        pass


def test_an_upload_ends_when_its_silo_is_no_longer_admitted(running: Office) -> None:
    running.join_round(*NAMES)
    update, admitted = fake_update(running.plan.values, 0), [True]
    header = running.cohort.header("a", running.ctx(), residues_root=update.root, seeds_sha256=update.seeds_sha256)

    def check(_context: object) -> None:
        if not admitted[0]:
            revoked()

    def parts():
        yield wire.UpdatePart(header=header).encode()
        yield wire.UpdatePart(seeds=update.seeds).encode()
        admitted[0] = False
        yield from (wire.UpdatePart(residues=chunk).encode() for chunk in update.chunks)

    nobody: Any = None
    service = FederationService(
        running.runner, ReadingDesk(running.runner), running.desk, nobody, nobody, nobody, UploadSlots(1, 60.0), check
    )
    context: Any = MemoryContext(PartyId("test", Role.SILO, "a"))
    with pytest.raises(Refused, match="has been revoked"):
        service.SubmitUpdate(parts(), context)
    assert list(running.runner.blobs.round(running.job, 1).iterdir()) == []


# -- locks -----------------------------------------------------------------------------------------------------------


def in_time(act: Callable[[], object]) -> None:
    """Fails if `act` waits for what this thread holds."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "waits for a step that goes on"


def test_readers_wait_for_no_step(running: Office) -> None:
    stream = Stream("a")
    running.runner.open_stream(stream)
    desk, reading = CoordinatorDesk(running.runner, max_artifact_bytes=1), ReadingDesk(running.runner)
    reads: tuple[Callable[[], object], ...] = (
        desk.statuses,
        desk.members,
        lambda: desk.rounds(running.job),
        lambda: next(running.runner.changes(stream, lambda: reading.notices("a", {}))),
        lambda: AggregatorMetrics(running.runner).collect(),
        lambda: running.runner.close_stream(stream),
    )
    with running.runner.turn(running.job):
        for read in reads:
            in_time(read)


def test_a_look_holds_up_no_step(running: Office) -> None:
    stream = Stream(None)
    running.runner.open_stream(stream)

    def step() -> None:
        with running.runner.turn(running.job):
            pass

    next(running.runner.changes(stream, lambda: in_time(step)))


# -- crashes and failures --------------------------------------------------------------------------------------------


def test_what_a_crash_left_in_the_blob_folder_goes_at_the_next_start(
    running: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    running.fingerprint(*NAMES)
    running.consent("a", "b")
    blobs = running.runner.blobs
    with monkeypatch.context() as crashing:
        crashing.setattr(Blobs, "drop_spool", lambda *_, **__: None)
        for name in ("a", "b"):
            signed = {**running.cohort.bound(name, running.ctx()), "adapter": "31" * 32}
            running.desk.applied(name, running.cohort.sign(Applied.model_validate(signed)))
        running.join_round(*NAMES)
        upload = running.upload("a")
        assert upload is not None
        with running.runner.turn(running.job) as turn:
            turn.tell_job(CoordinatorCancelled())
    (blobs.round(running.job, 2) / "a-0.residues").write_bytes(b"left")
    (blobs.folder / "0.part").write_bytes(b"half an artifact")
    orphan = blobs.artifact(b"o" * 32)
    orphan.parent.mkdir()
    orphan.write_bytes(b"of a job that was never taken in")
    assert any(path.suffix == ".residues" for path in blobs.sum(running.job, 1, 1).parent.iterdir())
    running.restarted()
    left = sorted(path.relative_to(blobs.job(running.job)).as_posix() for path in blobs.job(running.job).rglob("*"))
    assert [path.partition("-")[0] for path in left] == ["1", "1/a", "1/b", "1/c", "1/sum"]
    assert all(path.endswith(".seeds") for path in left[1:4])
    assert [path.name for path in blobs.folder.iterdir()] == [running.job.hex()]


def test_blobs_of_a_forgotten_job_go_at_the_next_start(running: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = running.runner.blobs.round(running.job, 1)
    with running.runner.turn(running.job) as turn:
        turn.tell_job(CoordinatorCancelled())
    folder.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as crashing:
        crashing.setattr(Blobs, "forget", lambda *_: None)
        running.now += timedelta(hours=2)
        running.runner._pass_deadline(running.live)
    assert running.live.forgotten
    assert folder.exists()
    running.restarted()
    assert not running.runner.blobs.job(running.job).exists()


def test_a_presence_that_could_not_be_told_is_told_again(dealt: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    dealt.connect("a", "b")
    dealt.now += timedelta(hours=1)
    with monkeypatch.context() as failing:

        def full() -> None:
            raise Unavailable("database", "is locked", "Wait.")

        failing.setattr(dealt.runner.store, "transaction", full)
        dealt.connect("c")
    assert isinstance(dealt.live.state, jobs.Gathering)
    dealt.now += timedelta(seconds=RETRY_S)
    dealt.runner._pass_deadline(dealt.live)
    assert dealt.ctx().participants == NAMES


# -- what it waits for -----------------------------------------------------------------------------------------------


def test_a_job_says_what_it_waits_for(office: Office) -> None:
    office.join("a")
    assert reason(office) == "waits for b, c to join or refuse"
    office.join("b", "c")
    assert reason(office) == f"waits for {office.live.state.dealer} to deal the cohort's key"
    office.deal()
    office.connect("b")
    assert reason(office) == "waits for a, c to connect: 1 are here, a round needs 2 or more"
    office.connect("a", "c")
    office.join_round("c")
    assert reason(office) == "waits for a, b to join round 1"
    office.join_round("a", "b")
    office.withdraw("c")
    office.submit("b")
    assert reason(office) == "waits for the updates of a in round 1"
    office.submit("a")
    office.fingerprint("b")
    assert reason(office) == "waits for the fingerprints of a in round 1"
    office.fingerprint("a")
    office.consent("a")
    assert reason(office) == "waits for 1 more consents to round 1; not yet from b, c"
    office.consent("b")
    office.applied("a", b"1" * 32)
    assert reason(office) == "waits for b to apply round 1"
    with office.runner.turn(office.job) as turn:
        turn.tell_job(CoordinatorCancelled())
    assert reason(office) == ""
