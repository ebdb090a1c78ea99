"""A steward who refuses a job that was joined: no further round is trained, and everything else goes on."""

import json

import pytest
from cloister.wire import JobPhase, RoundPhase
from sqlalchemy import delete

from privacy.errors import ExitCode
from privacy.roll import check_roll
from runtime.console import run
from silo_agent import command
from silo_agent.cli import app
from silo_agent.jobs import JobState, accepted_roll, find_job
from silo_agent.status import read_status
from silo_agent.tables import rolls
from tests.lone_silo import NAMES, NOW, OWN, LoneSilo

OTHERS = tuple(name for name in NAMES if name != OWN)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The steward's command is typed when the agent runs, in the tests' time."""
    monkeypatch.setattr(command, "now", lambda: NOW)


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path, charged=True)


def refuse(silo, capsys):
    code = run(app, ["refuse", silo.job.hex(), "--state", str(silo.folder), "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])  # after what the agent logs


def record(silo):
    with silo.home.store.reading() as connection:
        return find_job(connection, silo.job)


def collect(silo, number):
    silo.go_to(number)
    silo.advance(current=number)
    silo.port.phase = RoundPhase.COLLECTING
    silo.advance(current=number)


def sound(silo):
    silo.verify()
    silo.home.store.check()
    return True


def test_no_round_is_trained_after_it(silo, capsys):
    assert refuse(silo, capsys) == (0, {"job": silo.job.hex(), "name": "rehearsal", "state": "withdrawn"})
    assert (silo.entries[-1].decision, silo.entries[-1].reason, silo.entries[-1].round) == ("steward", "declined", None)
    collect(silo, 1)
    assert silo.state == "Withdrawn"
    assert "is not approved" in silo.runner.state(1).why
    assert "withdraw_round" in silo.port.calls
    assert (silo.source.runs, silo.budget.charged_epsilon, silo.port.updates) == (0, 0.0, [])
    assert sound(silo)


def test_it_still_checks_and_opens_the_sum_of_the_others(silo, capsys):
    refuse(silo, capsys)
    collect(silo, 1)
    silo.port.make_commit(members=OTHERS, own=False)
    silo.advance()
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    assert silo.state == "Applied"
    assert sound(silo)


def test_a_round_under_way_goes_on_to_its_end_and_is_charged(silo, capsys):
    silo.source.on_run = lambda: refuse(silo, capsys)
    collect(silo, 1)
    assert silo.state == "Submitted"
    assert silo.kinds[-4:] == ["reserve", "refuse", "commit", "release"]
    spent = silo.budget.spent_epsilon
    assert spent > 0
    collect(silo, 2)
    assert silo.state_of(2) == "Withdrawn"
    assert (silo.source.runs, silo.budget.charged_epsilon) == (1, spent)
    assert sound(silo)


def test_a_round_that_was_killed_meanwhile_is_still_spent(silo, capsys):
    def die():
        refuse(silo, capsys)
        raise KeyboardInterrupt

    silo.source.on_run = die
    with pytest.raises(KeyboardInterrupt):
        collect(silo, 1)
    silo.start()
    silo.advance()
    assert silo.state == "Withdrawn"
    assert silo.entries[-1].outcome == "presumed"
    assert sound(silo)


def test_it_is_said_in_jobs_and_status_also_once_the_key_is_there(silo, capsys):
    silo.stand(JobState.JOINED)
    participation = silo.take_part()
    participation._preparation.charged = lambda _record: silo.charged  # the dataset is made up
    silo.port.job = silo.job_view(JobPhase.JOINING)
    participation.advance()
    refuse(silo, capsys)
    participation.advance()
    why = "refused by a steward after it was joined: no further round is trained here"
    assert (record(silo).state, record(silo).why) == (JobState.JOINED, why)
    assert read_status(silo.folder)["message"] == why
    with silo.home.store.writing() as tx:
        accepted = accepted_roll(tx.connection, silo.job)
        tx.connection.execute(delete(rolls))
        roll = check_roll(silo.plan, accepted.joins)
        participation._accept_in(tx.connection, roll, accepted.deal, accepted.key_commitment)
    assert (record(silo).state, record(silo).why) == (JobState.READY, why)


@pytest.mark.parametrize("charged", [True, False])
def test_what_cannot_be_refused_is_said(tmp_path, capsys, charged):
    silo = LoneSilo(tmp_path, charged=charged)
    code, said = refuse(silo, capsys)
    if charged:
        assert code == 0
        code, said = refuse(silo, capsys)
        assert "trains no further round already" in said["error"]["why"]
    else:
        assert "it touches no data and spends no budget" in said["error"]["why"]
        assert "stop the agent, or ask the coordinator to cancel" in said["error"]["next_step"]
    assert code == ExitCode.REFUSED
    silo.stand(JobState.FINISHED)
    code, said = refuse(silo, capsys)
    assert (code, said["error"]["why"]) == (ExitCode.REFUSED, "is finished")
