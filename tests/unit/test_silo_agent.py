"""One thread a job: what wakes it, what stops its training, and that its troubles are its own."""

import signal
import socket
import threading
import time
import urllib.request
from datetime import UTC, datetime
from queue import Queue

import pytest
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from certs.wallet import Wallet
from federation.processes import free_port
from privacy.errors import CloisterError, ConfigError, ExitCode, ProtocolError, Unavailable
from privacy.ledger.checkpoint import Checkpoint, sign_checkpoint
from privacy.ledger.witness import RewrittenError
from silo_agent import agent, client, witnessing
from silo_agent.admission import ForeignJobError
from silo_agent.agent import Agent, JobThread
from silo_agent.asking import Unanswered
from silo_agent.client import GrpcAggregator
from silo_agent.daemon import ended_by_signals
from silo_agent.entries import Author, key_entry
from silo_agent.jobs import JobState, set_job_state
from silo_agent.metrics import silo_metrics
from silo_agent.status import StatusBoard
from silo_agent.witnessing import Unwitnessed
from tests.lone_silo import NOTHING_WITNESSED, NOW, OWN, LoneSilo

JOB = b"j" * 32
PATIENCE_S = 10.0


class PlayedJob:
    """A participation that does what the test says, one thing per look."""

    def __init__(self, *plays):
        self.plays = list(plays)
        self.looks = 0
        self.polls = Queue()
        self.complaints = []
        self.changes = None
        self.done = threading.Event()

    def advance(self):
        self.looks += 1
        play = self.plays.pop(0) if self.plays else JobState.READY
        if not self.plays:
            self.done.set()
        if isinstance(play, BaseException):
            raise play
        return play

    def complain(self, error):
        self.complaints.append(error)

    def grounds(self):
        self.polls.put(self.looks)
        if isinstance(self.changes, BaseException):
            raise self.changes
        return self.changes


def start(job):
    thread = JobThread(lambda _interrupted: job, JOB.hex())
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(agent, "RETRY_LEAST_S", 0.001)
    monkeypatch.setattr(agent, "DECISION_POLL_S", 0.01)


def notice(round_phase=RoundPhase.COLLECTING, number=1, job_phase=JobPhase.RUNNING, job=JOB):
    return wire.Notice(job=job, job_phase=job_phase, round=number, round_phase=round_phase)


def test_what_fails_is_tried_again_and_shown_unless_the_aggregator_is_only_away():
    wrong = ProtocolError("round 1", "starts from another adapter", "Look.")
    job = PlayedJob(Unavailable("asking", "away", "Wait."), wrong, ZeroDivisionError("patient is 63"), JobState.READY)
    thread = start(job)
    assert job.done.wait(PATIENCE_S)
    shown, bug = job.complaints
    assert shown is wrong
    assert "met a bug (ZeroDivisionError). It is tried again; report this" in str(bug)
    assert "63" not in str(bug)
    thread.stop()
    thread.join(PATIENCE_S)
    assert not thread.alive


def test_that_witnesses_are_missing_is_shown_and_the_job_tried_again():
    job = PlayedJob(Unwitnessed("witnesses", "1 of 2 have cosigned", "Wait."), JobState.READY)
    thread = start(job)
    assert job.done.wait(PATIENCE_S)
    assert [error.why for error in job.complaints] == ["1 of 2 have cosigned"]
    thread.stop()
    thread.join(PATIENCE_S)


def test_the_trouble_of_one_job_is_not_anothers():
    broken, sound = PlayedJob(*[ZeroDivisionError() for _ in range(5)]), PlayedJob(JobState.READY, JobState.READY)
    threads = [start(broken), start(sound)]
    threads[1].wake(notice())
    assert broken.done.wait(PATIENCE_S)
    assert sound.done.wait(PATIENCE_S)
    for thread in threads:
        thread.stop()
        thread.join(PATIENCE_S)
        assert not thread.alive


def test_a_job_that_is_over_ends_its_thread():
    job = PlayedJob(JobState.FINISHED)
    thread = start(job)
    thread.join(PATIENCE_S)
    assert not thread.alive
    thread.wake(notice())
    assert job.looks == 1


def test_a_stewards_decision_is_noticed_without_asking_the_aggregator_meanwhile():
    job = PlayedJob(JobState.SEEN, JobState.FINISHED)
    job.changes = "waiting"
    thread = start(job)
    polls = [job.polls.get(timeout=PATIENCE_S) for _ in range(5)]
    assert polls == [0, 1, 1, 1, 1], "silo.db was looked at again and again, and the aggregator asked once"
    job.changes = None
    assert job.done.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not thread.alive


def test_a_database_that_fails_while_a_decision_is_waited_for_ends_no_thread():
    job = PlayedJob(JobState.SEEN, JobState.SEEN, JobState.FINISHED)
    job.changes = ConfigError("database silo.db", "the disk is failing", "Replace it.")
    thread = start(job)
    thread.join(PATIENCE_S)
    assert not thread.alive, "it went on to the end of the job"
    assert job.complaints


@pytest.mark.parametrize(
    ("seen", "stops"),
    [
        (None, False),
        (notice(RoundPhase.ANNOUNCED), False),  # a notice that is late is no reason to waste a training
        (notice(RoundPhase.COLLECTING), False),
        (notice(RoundPhase.ABORTED, number=1), False),  # of the round before
        (notice(RoundPhase.COMMITTED, number=2), True),
        (notice(RoundPhase.ABORTED, number=2), True),
        (notice(RoundPhase.ANNOUNCED, number=3), True),
        (notice(job_phase=JobPhase.CANCELLED, number=2), True),
    ],
)
def test_training_stops_only_when_its_round_is_past_it(seen, stops):
    thread = JobThread(lambda _interrupted: PlayedJob(), JOB.hex())
    thread.wake(seen)
    assert (thread._interrupted(2) is not None) == stops
    thread.stop()
    assert thread._interrupted(2) == "the agent was stopped"


# -- the agent -------------------------------------------------------------------------------------------------


class PlayedAggregator:
    """Names jobs, and says nothing else; the stream ends when it is closed."""

    def __init__(self, *named):
        self.named = named
        self.all_named = threading.Event()
        self.closed = threading.Event()
        self.answer = lambda: NOTHING_WITNESSED
        self.exchanges = 0

    def exchange_checkpoints(self, request):
        self.exchanges += 1
        return self.answer()

    def follow(self, software, opened):
        opened()
        for job in self.named:
            yield wire.Notice(job=job, job_phase=JobPhase.JOINING, round=0, round_phase=RoundPhase.ANNOUNCED)
        self.all_named.set()
        self.closed.wait(PATIENCE_S)


class Played:
    """An agent over a real state folder whose jobs do what the test says."""

    def __init__(self, folder, monkeypatch, named, play, answer=lambda _: NOTHING_WITNESSED, settings=""):
        self.silo, self.raised = LoneSilo(folder), []
        if settings:
            config = folder / "silo.toml"
            config.write_text(config.read_text() + settings)
            self.silo.start()
        with self.silo.home.store.writing() as tx:
            set_job_state(tx.connection, self.silo.job, JobState.FINISHED, NOW, expected=set(JobState))
        self.played = {}
        self.port = PlayedAggregator(*named)
        self.port.answer = lambda: answer(self.silo)
        self.board = StatusBoard(folder, OWN, lambda: NOW)

        def participation(job, interrupted):
            return self.played.setdefault(job, play())

        self.agent = Agent(self.silo.home, self.port, lambda: None, lambda: NOW, self.board)
        monkeypatch.setattr(self.agent, "_participation", participation)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.agent.run()
        except CloisterError as error:
            self.raised.append(error)

    def stop(self):
        self.agent.stop()
        self.port.closed.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def digests(count):
    return [bytes([n]) * 32 for n in range(count)]


def test_an_aggregator_that_names_jobs_without_end_gets_a_thread_for_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "MOST_OPEN_JOBS", 5)
    played = Played(tmp_path, monkeypatch, digests(30), lambda: PlayedJob(*[JobState.READY] * 3))
    assert played.port.all_named.wait(PATIENCE_S)
    assert list(played.played) == digests(5)
    assert "5 jobs are open; no more are taken up" in played.board.status.message
    played.stop()
    assert played.agent.ended


def test_a_job_that_is_over_or_not_ours_makes_room_and_is_not_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "MOST_OPEN_JOBS", 1)
    ends = [JobState.FINISHED, ForeignJobError("job plan", "does not list this silo", "Ask.")]
    gone, started = Queue(), Queue()

    class Watched(JobThread):
        def __init__(self, make, name, ended):
            super().__init__(make, name, lambda why: (ended(why), gone.put(name)))
            started.put(name)

    monkeypatch.setattr(agent, "JobThread", Watched)
    played = Played(tmp_path, monkeypatch, [], lambda: PlayedJob(ends.pop(0)))
    assert played.port.all_named.wait(PATIENCE_S)
    first, second = digests(2)
    for job in (first, second):
        played.agent._noticed(notice(job=job))
        assert gone.get(timeout=PATIENCE_S) == job.hex()
    for job in (first, second, first):
        played.agent._noticed(notice(job=job))
    assert [started.get_nowait() for _ in range(started.qsize())] == [first.hex(), second.hex()]
    assert played.played[second].complaints, "the operator sees why"
    played.stop()


def test_a_job_that_nobody_answers_for_makes_room_until_it_is_named_again(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "MOST_OPEN_JOBS", 1)
    silent = Unanswered("job 6a6a", "the aggregator did not answer for it 20 times", "Its place is free.")
    plays, gone = [silent, JobState.FINISHED, JobState.FINISHED], Queue()

    class Watched(JobThread):
        def __init__(self, make, name, ended):
            super().__init__(make, name, lambda why: (ended(why), gone.put((name, why))))

    monkeypatch.setattr(agent, "JobThread", Watched)
    played = Played(tmp_path, monkeypatch, [], lambda: PlayedJob(plays.pop(0)))
    assert played.port.all_named.wait(PATIENCE_S)
    first, second = digests(2)
    seen = []
    for job in (first, second, first):
        played.agent._noticed(notice(job=job))
        seen.append(gone.get(timeout=PATIENCE_S))
        if not seen[1:]:
            assert played.played.pop(first).complaints == [silent]
    assert seen == [(first.hex(), silent), (second.hex(), None), (first.hex(), None)]
    played.stop()


def test_a_thread_that_does_not_end_in_time_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "JOIN_S", 0.01)
    busy, release = threading.Event(), threading.Event()

    class Training(PlayedJob):
        def advance(self):
            busy.set()
            release.wait(PATIENCE_S)
            return JobState.FINISHED

    played = Played(tmp_path, monkeypatch, digests(1), Training)
    assert busy.wait(PATIENCE_S)
    played.stop()
    assert not played.agent.ended
    release.set()


def test_a_renewal_that_breaks_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "RENEWAL_CHECK_S", 0.001)
    tries = Queue()

    def broken(_wallet, _now):
        tries.put("renewal")
        raise ZeroDivisionError

    monkeypatch.setattr(Wallet, "renewal_due", broken)
    played = Played(tmp_path, monkeypatch, [], PlayedJob)
    for _ in range(3):
        assert tries.get(timeout=PATIENCE_S) == "renewal"
    played.stop()


# -- signals and connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent_without_waiting_for_what_the_main_thread_holds(number):
    held, taken = threading.Lock(), Queue()
    before = signal.getsignal(number)
    with ended_by_signals(lambda: taken.put(held.acquire(timeout=PATIENCE_S))):
        with held:
            signal.raise_signal(number)
        assert taken.get(timeout=2 * PATIENCE_S) is True
    assert signal.getsignal(number) is before


def test_closing_ends_the_wait_for_an_aggregator_that_is_away(monkeypatch):
    monkeypatch.setattr(client, "CONNECT_S", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word of TLS
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        waits, said = threading.Event(), Queue()
        ready = client.grpc.channel_ready_future
        monkeypatch.setattr(client.grpc, "channel_ready_future", lambda channel: (ready(channel), waits.set())[0])
        port = GrpcAggregator(lambda: client.grpc.secure_channel(address, client.grpc.ssl_channel_credentials()))

        def follow():
            try:
                list(port.follow("cloister", lambda: None))
            except Unavailable as error:
                said.put(error.why)

        threading.Thread(target=follow, daemon=True).start()
        assert waits.wait(PATIENCE_S)
        port.close()
        assert said.get(timeout=PATIENCE_S) == "the connection was closed on this side"
        with pytest.raises(Unavailable, match="closed on this side"):
            list(port.follow("cloister", lambda: None))


def test_metrics_say_what_the_status_says_on_this_machine_only(tmp_path):
    board = StatusBoard(tmp_path, "east", lambda: datetime.now(UTC))
    board.show(epsilon_spent=0.5, connected=True)
    port = free_port()
    stop = silo_metrics(board, port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
            said = answer.read().decode()
        with pytest.raises(ConfigError, match=f"metrics port {port}"):
            silo_metrics(board, port)
    finally:
        stop()
    assert "cloister_silo_epsilon_spent 0.5" in said
    assert "cloister_silo_connected 1.0" in said
    silo_metrics(board, 0)()


# -- a state that is not the newest ------------------------------------------------------------------------------------


def running(folder, monkeypatch, answer, settings=""):
    """An agent whose aggregator answers every exchange like this."""
    return Played(folder, monkeypatch, digests(1), lambda: PlayedJob(*[JobState.READY] * 3), answer, settings)


def own_note(silo, size):
    """A checkpoint of so many entries that this silo signed once."""
    with silo.home.store.writing() as tx:
        identity = tx.ledger.identity
    said = Checkpoint(identity.origin, size, bytes(32))
    return sign_checkpoint(said, identity.public_key, silo.home.identity.sign)


def test_an_agent_on_a_rolled_back_state_ends_before_it_takes_up_a_job(tmp_path, monkeypatch):
    played = running(
        tmp_path,
        monkeypatch,
        lambda silo: wire.ExchangedCheckpoints(newest=own_note(silo, 40).encode(), wanted=(), shown=(), witnesses=()),
    )
    played.thread.join(PATIENCE_S)
    assert not played.thread.is_alive()
    (error,) = played.raised
    assert isinstance(error, RewrittenError)
    assert error.exit_code == ExitCode.VERIFICATION
    assert "was rolled back" in played.board.status.message
    assert not played.played, "no job was looked at"
    assert not played.port.all_named.is_set()


def test_an_agent_waits_for_its_quorum(tmp_path, monkeypatch):
    played = running(tmp_path, monkeypatch, lambda _: NOTHING_WITNESSED, "\n[witnesses]\nquorum = 1\n")
    deadline = time.monotonic() + PATIENCE_S
    while "0 of 1 have cosigned" not in played.board.status.message and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "0 of 1 have cosigned this silo's ledger since the agent started" in played.board.status.message
    assert not played.played
    assert not played.board.status.connected
    played.stop()


def exchanged(played, count):
    """So many exchanges of checkpoints in time."""
    deadline = time.monotonic() + PATIENCE_S
    while played.port.exchanges < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return played.port.exchanges >= count


def test_an_agent_exchanges_checkpoints_every_so_often_and_when_it_is_asked_to(tmp_path, monkeypatch):
    played = running(tmp_path, monkeypatch, lambda _: NOTHING_WITNESSED, "\n[witnesses]\nevery_s = 1\n")
    assert played.port.all_named.wait(PATIENCE_S)
    begun = played.port.exchanges
    assert exchanged(played, begun + 2), "by itself"
    played.stop()


def test_a_database_that_cannot_be_read_for_once_ends_no_exchanges(tmp_path, monkeypatch):
    failures = [OSError("disk I/O error")]

    def pace(_):
        if failures:
            raise failures.pop()
        return 1.0

    monkeypatch.setattr(witnessing.Witnessing, "pace", property(pace))
    played = running(tmp_path, monkeypatch, lambda _: NOTHING_WITNESSED, "\n[witnesses]\nevery_s = 1\n")
    assert played.port.all_named.wait(PATIENCE_S)
    assert exchanged(played, played.port.exchanges + 2)
    assert not failures
    played.stop()


def test_an_agent_exchanges_checkpoints_when_a_round_is_over(tmp_path, monkeypatch):
    played = running(tmp_path, monkeypatch, lambda _: NOTHING_WITNESSED)
    assert played.port.all_named.wait(PATIENCE_S)
    begun = played.port.exchanges
    showing = Agent._participation(played.agent, played.silo.job, lambda _: None)._showing
    showing.soon()
    assert exchanged(played, begun + 1)
    with played.silo.home.store.writing() as tx:
        by = Author(OWN, "steward", "steward", NOW)
        tx.record(key_entry(by, "own", f"cloister://test/silo/{OWN}", "0c" * 32, "enrolled"))
    monkeypatch.setattr(witnessing, "PAUSES_S", ())
    with pytest.raises(Unwitnessed, match="the aggregator holds 0 of this silo's"):
        showing.now()
    assert played.port.exchanges == begun + 2
    played.stop()


def test_an_agent_exchanges_checkpoints_more_often_while_updates_are_collected(tmp_path, monkeypatch):
    """Others may wait for this silo's cosignature before theirs leave."""
    monkeypatch.setattr(agent, "COLLECTING_EVERY_S", 0.01)
    played = running(tmp_path, monkeypatch, lambda _: NOTHING_WITNESSED)
    assert played.port.all_named.wait(PATIENCE_S)
    begun = played.port.exchanges
    time.sleep(0.3)
    assert played.port.exchanges == begun, "no round is open"
    played.agent._noticed(notice(RoundPhase.COLLECTING, job=digests(1)[0]))
    assert exchanged(played, begun + 3)
    played.agent._noticed(notice(RoundPhase.COMMITTED, job=digests(1)[0]))
    played.stop()
