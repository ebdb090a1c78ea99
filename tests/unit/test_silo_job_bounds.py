"""What an aggregator can make a silo keep: rows, files and memory have a bound that it does not choose."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from cloister import wire
from cloister.wire import JobPhase

from privacy.errors import ProtocolError, Unavailable
from privacy.plan import JobPlan
from silo_agent import apply, jobs
from silo_agent.admission import ForeignJobError
from silo_agent.apply import AdapterShelf
from silo_agent.asking import MOST_UNANSWERED, Unanswered
from silo_agent.jobs import JobState, add_job, all_jobs, find_job, set_job_state
from silo_agent.participation import Participation
from silo_agent.status import StatusBoard
from tests.lone_silo import NOW, OWN, LoneSilo
from tests.showing import TO_NOBODY

ANY = set(JobState)


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path, charged=True)


def another(silo, number, **changes):
    fields = {**silo.plan.model_dump(mode="json"), "nonce": f"{number:064x}", **changes}
    return JobPlan.model_validate(fields)


@dataclass
class Asked:
    """An aggregator that answers GetJob."""

    view: wire.Job
    calls: list[bytes] = field(default_factory=list)

    def get_job(self, job):
        self.calls.append(job)
        return self.view


def look(silo, plan, *, phase=JobPhase.JOINING, job=None, body=None):
    view = wire.Job(
        plan=body or plan.encode(), phase=phase, joins=(), deal=None, mail=b"", opened_rounds=(), current_round=0
    )
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    port, job = Asked(view), job or plan.digest()
    return Participation(silo.home, port, job, board, clock=lambda: NOW, showing=TO_NOBODY).advance()


def known(silo):
    with silo.home.store.reading() as connection:
        return {record.job for record in all_jobs(connection)}


def test_of_a_plan_that_is_not_for_this_silo_nothing_is_kept(silo):
    elsewhere = another(silo, 1, federation="other")
    with pytest.raises(ForeignJobError, match="is of federation other"):
        look(silo, elsewhere)
    with pytest.raises(ForeignJobError, match="not the one whose digest names the job"):
        look(silo, another(silo, 2), job=b"x" * 32)
    with pytest.raises(ForeignJobError):
        look(silo, None, job=b"x" * 32, body=b"{}")
    assert known(silo) == {silo.job}


def test_of_jobs_that_ended_undecided_the_newest_are_kept(silo, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_UNDECIDED", 3)
    plans = [another(silo, number) for number in range(8)]
    waiting, decided, *ended = plans
    with silo.home.store.writing() as tx:
        for at, plan in enumerate(plans):
            add_job(tx.connection, plan, NOW)
            state = JobState.SEEN if plan is waiting else JobState.CANCELLED
            set_job_state(tx.connection, plan.digest(), state, NOW + timedelta(seconds=at), expected=ANY)
        set_job_state(tx.connection, decided.digest(), JobState.CANCELLED, NOW, expected=ANY, decided_by="a steward")
    last = another(silo, 99)
    assert look(silo, last) is JobState.SEEN
    assert look(silo, last, phase=JobPhase.CANCELLED) is JobState.CANCELLED
    kept = {plan.digest() for plan in (waiting, decided, last, *ended[-3:])}
    assert known(silo) == {silo.job, *kept}
    with silo.home.store.reading() as connection:
        assert find_job(connection, last.digest()).state is JobState.CANCELLED


REFUSAL = ProtocolError("job 6a6a", "is not known here", "Ask the coordinator.")
AWAY = Unavailable("asking for the job", "cannot be reached", "Wait.")


@pytest.mark.parametrize(
    ("error", "recorded", "ends"),
    [(REFUSAL, True, True), (REFUSAL, False, True), (AWAY, False, True), (AWAY, True, False)],
)
def test_a_job_that_the_aggregator_does_not_answer_for_is_given_up(silo, error, recorded, ends):
    """One that is known here waits for an aggregator that is only away, however long."""
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    job = silo.job if recorded else b"j" * 32
    participation = Participation(silo.home, silo.port, job, board, clock=lambda: NOW, showing=TO_NOBODY)
    silo.port.refuses["get_job"] = error
    for _ in range(MOST_UNANSWERED - 1):
        with pytest.raises(type(error)) as caught:
            participation.advance()
        assert caught.value is error
    with pytest.raises(Unanswered if ends else Unavailable) as caught:
        participation.advance()
    assert (f"did not answer for it 20 times; the last: {error.why}" in str(caught.value)) is ends
    assert "Its place is free for other jobs" in str(caught.value) or caught.value is error
    assert (known(silo), silo.job_state) == ({silo.job}, JobState.READY)


def test_an_answer_begins_the_count_anew(silo):
    silo.port.job = silo.job_view(JobPhase.DEALING)
    participation = silo.take_part()
    participation._preparation.charged = lambda _record: silo.charged  # the dataset is made up
    for _ in range(3):
        silo.port.refuses["get_job"] = REFUSAL
        for _ in range(MOST_UNANSWERED - 1):
            with pytest.raises(ProtocolError):
                participation.advance()
        silo.port.refuses.clear()
        assert participation.advance() is JobState.READY


def shelf_for(silo, artifact):
    task = silo.plan.task.model_dump(mode="json")
    task["adapter"]["initial_sha256"] = hashlib.sha256(artifact).hexdigest()
    return AdapterShelf(silo.home.artifacts(silo.job), another(silo, 1, task=task))


def test_a_starting_adapter_is_written_as_it_comes(silo):
    artifact = b"".join(bytes([n]) * 1000 for n in range(5))
    shelf = shelf_for(silo, artifact)
    left = shelf.artifact_path.with_name(f".{shelf.artifact_path.name}.00.tmp")
    left.write_bytes(b"of a process that was killed")
    on_disk = []

    def parts():
        for n in range(5):
            yield bytes([n]) * 1000
            on_disk.append(sum(path.stat().st_size for path in shelf.artifact_path.parent.iterdir()))

    shelf.keep_artifact(parts())
    assert on_disk == [1000, 2000, 3000, 4000, 5000]
    assert list(shelf.artifact_path.parent.iterdir()) == [shelf.artifact_path]
    assert shelf.artifact_path.read_bytes() == artifact


def test_no_more_of_a_starting_adapter_is_taken_than_the_plan_can_need(silo, monkeypatch):
    monkeypatch.setattr(apply, "ARTIFACT_SLACK", 100)
    most = 100 + apply.FROZEN_SHARE * 4 * silo.plan.values
    exact = b"e" * most
    shelf = shelf_for(silo, exact)
    taken = []

    def endless():
        while True:
            taken.append(100)
            yield b"x" * 100

    with pytest.raises(ProtocolError, match=f"larger than {most} bytes"):
        shelf.keep_artifact(endless())
    assert sum(taken) <= most + 100
    assert list(shelf.artifact_path.parent.iterdir()) == []
    shelf.keep_artifact(iter([exact]))
    assert shelf.artifact_path.read_bytes() == exact
