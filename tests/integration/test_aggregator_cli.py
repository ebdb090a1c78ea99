"""`cloister aggregator ...` as a coordinator uses it, against a running aggregator."""

import io
import json
import socket
from pathlib import Path

import pytest

from aggregator import cli
from aggregator.config import StateFolder
from aggregator.display import print_lines, show_live
from aggregator.server import running
from certs.invitation import Invitation
from federation.cli import build
from privacy.errors import ConfigError, Refused
from privacy.record import RoundRecord, check_record
from runtime.console import run
from runtime.logs import configure_logs
from tests.scripted import Cast, enrol, found_aggregator, invite, make_cast


@pytest.fixture(name="state")
def _state(tmp_path: Path) -> StateFolder:
    configure_logs(stream=io.StringIO())
    return found_aggregator(tmp_path / "aggregator")


def cloister(capsys: pytest.CaptureFixture[str], state: StateFolder, *words: str) -> tuple[int, str]:
    code = run(cli.app, [*words, "--state", str(state.root)])
    told = capsys.readouterr()
    return code, told.out + told.err


def facts(capsys: pytest.CaptureFixture[str], state: StateFolder, *words: str):
    code, out = cloister(capsys, state, *words, "--json")
    assert code == 0, out
    return json.loads(out)


def one_round(cast: Cast) -> None:
    cast.deal()
    for step in ("join_round", "submit", "fingerprint", "consent", "applied"):
        for silo in cast.all:
            getattr(silo, step)(*([cast.update_of(silo.name)] if step == "submit" else []))


def test_a_job_from_the_command_line(state: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(state):
        cast = make_cast(tmp_path, state)
        capsys.readouterr()
        job = facts(capsys, state, "submit", str(cast.write_job(tmp_path / "job")))["job"]
        assert job == cast.plan.digest().hex()
        one_round(cast)
        status = facts(capsys, state, "status")
        assert [(job["phase"], job["rounds_published"]) for job in status["jobs"]] == [("FINISHED", 1)]
        assert {(m["role"], m["name"]) for m in status["members"]} == {
            ("aggregator", "aggregator"), ("coordinator", "coordinator"),
            ("silo", "silo-a"), ("silo", "silo-b"), ("silo", "silo-c"),
        }  # fmt: skip
        (only,) = facts(capsys, state, "rounds", job[:8])["rounds"]
        assert (only["phase"], only["members"]) == ("PUBLISHED", ["silo-a", "silo-b", "silo-c"])
        facts(capsys, state, "export", "rehearsal", "--round", "1", "--out", str(tmp_path / "round.json"))
        verdict = check_record(RoundRecord.decode((tmp_path / "round.json").read_bytes()))
        assert len(verdict.consents) == 3
        check_offline(capsys, tmp_path / "round.json", state.blobs / job / "1" / "sum-1")
        code, out = cloister(capsys, state, "rounds", "rehearsal")
        assert code == 0
        assert "3 of 3" in out
        with cast.coordinator() as coordinator:
            print_lines(coordinator.jobs())
            assert json.loads(capsys.readouterr().out)["rounds_published"] == 1
            show_live(coordinator.jobs())
            assert "FINISHED" in capsys.readouterr().out
        code, out = cloister(capsys, state, "cancel", "rehearsal")
        assert code == 4
        assert "is FINISHED: too late for this" in out
        cast.close()


def check_offline(capsys: pytest.CaptureFixture[str], transcript: Path, sums: Path) -> None:
    """`cloister round verify`: with the sum, without it, and what each finds."""

    def verify(*words: str) -> tuple[int, str]:
        code = run(build("round"), ["round", "verify", *words])
        told = capsys.readouterr()
        return code, told.out + told.err

    code, out = verify(str(transcript))
    assert code == 0
    assert "not the sum itself" in out
    code, out = verify(str(transcript), "--sum", str(sums), "--json")
    facts = json.loads(out)
    assert (code, facts["sum_checked"], facts["members"]) == (0, True, ["silo-a", "silo-b", "silo-c"])
    altered = bytearray(sums.read_bytes())
    altered[8] ^= 1
    (transcript.parent / "other").write_bytes(altered)
    assert verify(str(transcript), "--sum", str(transcript.parent / "other"))[0] == 6
    (transcript.parent / "short").write_bytes(altered[:-8])
    code, out = verify(str(transcript), "--sum", str(transcript.parent / "short"))
    assert (code, "is truncated" in out) == (6, True)
    forged = transcript.read_text().replace('"round":1', '"round":2')
    (transcript.parent / "forged.json").write_text(forged)
    code, out = verify(str(transcript.parent / "forged.json"))
    assert (code, "another context" in out) == (6, True)
    assert verify(str(transcript.parent / "nowhere"))[0] == 3


def test_a_token_enrols_once(state: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(state):
        capsys.readouterr()
        code, out = cloister(capsys, state, "invite", "silo-a", "--lifetime", "2h")
        assert code == 0
        invitation = Invitation.decode(out.strip())
        enrol(tmp_path / "one", invitation)
        with pytest.raises(Refused, match="has been used already"):
            enrol(tmp_path / "two", invitation)
        enrol(tmp_path / "three", invite(state, "silo-b"))


def test_a_coordinator_elsewhere_is_made_as_the_refused_invitation_says(
    state: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = StateFolder(tmp_path / "carol")
    code, out = cloister(capsys, state, "invite", "carol", "--role", "coordinator")
    assert code == 3
    command = out.partition("like a password: cloister ")[2].strip().replace("FOLDER", str(elsewhere.coordinator))
    assert run(build("certs"), command.split()) == 0
    elsewhere.config.write_text(state.config.read_text())
    with running(state):
        cast = make_cast(tmp_path, state)
        capsys.readouterr()
        facts(capsys, elsewhere, "submit", str(cast.write_job(tmp_path / "job")))
        assert [job["name"] for job in facts(capsys, elsewhere, "status")["jobs"]] == ["rehearsal"]
        assert run(build("certs"), ["certs", "revoke", "coordinator", "carol", "--ca", str(state.ca)]) == 0
        code, out = cloister(capsys, elsewhere, "cancel", "rehearsal")
        assert (code, "coordinator/carol\n  why:  has been revoked" in out) == (7, True)
        cast.close()


def test_mistakes_are_named(
    state: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "planner", None)  # a test of the root command may have set it
    cases = {
        ("invite", "a", "--lifetime", "soon"): "lifetime 'soon'",
        ("invite", "aggregator"): "is the aggregator's name",
        ("invite", "a", "--role", "king"): "role 'king'",
        ("invite", "a", "--role", "auditor"): "cloister certs issue auditor a",
        ("submit", str(tmp_path / "nowhere")): "does not exist",
        ("init", "--federation", "again"): "holds an aggregator already",
    }
    for words, why in cases.items():
        code, out = cloister(capsys, state, *words)
        assert code == 3
        assert why in out
    (tmp_path / "job.toml").write_text("")
    code, out = cloister(capsys, state, "submit", str(tmp_path / "job.toml"))
    assert (code, "cannot plan jobs" in out) == (3, True)
    code, out = cloister(capsys, StateFolder(tmp_path / "other"), "status")
    assert code == 3
    assert "aggregator.toml" in out
    code, out = cloister(capsys, StateFolder(tmp_path / "any"), "init", "--federation", "x", "--listen", "0.0.0.0:7443")
    assert (code, "--public-name" in out) == (3, True)


def test_the_aggregator_is_down(state: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = cloister(capsys, state, "status")
    assert code == 7
    assert f"listing members at {state.load().listen}\n  why:  the server cannot be reached" in out


def test_two_on_one_folder_and_a_taken_port(state: StateFolder) -> None:
    with running(state), pytest.raises(ConfigError, match="is in use by process"), running(state):
        pass
    port = int(state.load().listen.rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"program that uses port {port}"), running(state):
            pass
    with running(state):
        pass


def test_a_wallet_of_another_aggregator_is_refused(state: StateFolder) -> None:
    text = state.config.read_text().replace('name = "aggregator"', 'name = "second"')
    state.config.write_text(text)
    with pytest.raises(ConfigError, match=r"aggregator\.toml says second"), running(state):
        pass
