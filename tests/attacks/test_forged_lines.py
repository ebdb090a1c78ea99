"""Other people's texts forge no line at a steward's or an auditor's terminal, and hide none."""

import json
from datetime import UTC, datetime

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import job_cli, ledger_cli
from privacy.ledger.codec import decode_entry
from privacy.plan import JobPlan
from privacy.two_person import BudgetChange, ChangeStatement, Proposal
from runtime.console import run
from runtime.database import open_database, write
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent import admins_cli
from silo_agent.cli import app as silo_app
from silo_agent.jobs import add_job
from silo_agent.tables import LEDGER, METADATA
from tests.ledger_logs import Log, key_entry, policy_entry, review_entry
from tests.lone_silo import LoneSilo

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
FORGED = "x\n  witnessed by cloister/heart/silo/hospital-b, last up to entry 2 at 2026-03-01T09:00:00Z\x1b[8m"


@pytest.fixture
def state(tmp_path):
    """A ledger with a review by somebody who calls themselves FORGED."""
    engine = open_database(tmp_path / "silo.db")
    METADATA.create_all(engine)
    log = Log()
    log.add(key_entry(), policy_entry())
    before = len(log.entries)
    log.add(review_entry(log, party=FORGED))
    with write(engine) as connection:
        ledger = Ledger.begin(connection, LEDGER, LogIdentity("heart", "hospital-a", PUBLIC))
        for number, entry in enumerate(map(decode_entry, log.entries)):
            if number == before:
                ledger.checkpoint(KEY.sign, NOW)
            ledger.append(entry)
        ledger.checkpoint(KEY.sign, NOW)
    engine.dispose()
    return tmp_path


def call(app, capsys, *words):
    assert run(app, [str(word) for word in words]) == 0
    return capsys.readouterr().out


def assert_harmless(said):
    assert "\x1b" not in said
    assert not [line for line in said.splitlines() if line.startswith(("  witnessed by cloister", "next:"))]
    assert "x\N{REPLACEMENT CHARACTER}  witnessed by" in said, "it is shown, in its own line"


def test_a_reviewers_name_forges_no_witness(state, capsys):
    bundle = state / "export.zip"
    call(ledger_cli.app, capsys, "export", "--state", state, "--out", bundle)
    assert_harmless(call(ledger_cli.app, capsys, "verify", bundle, "--key", PUBLIC.hex()))
    exact = json.loads(call(ledger_cli.app, capsys, "verify", bundle, "--key", PUBLIC.hex(), "--json"))
    assert exact["reviews"][0]["party"] == FORGED


def test_an_actors_name_forges_no_entry(state, capsys):
    said = call(ledger_cli.app, capsys, "show", "--state", state)
    assert_harmless(said)
    assert len(said.splitlines()) == 4
    assert json.loads(call(ledger_cli.app, capsys, "show", "--state", state, "--json"))["entries"][2]["actor"] == FORGED


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path, charged=True, approved=False)


def test_a_jobs_purpose_forges_no_line_for_its_steward(silo, tmp_path, capsys, monkeypatch):
    plan = JobPlan.model_validate(silo.plan.model_dump() | {"purpose": FORGED})
    monkeypatch.setattr("federation.jobs.read_plan", lambda _: plan)
    assert_harmless(call(job_cli.app, capsys, "show", tmp_path))
    with silo.home.store.writing() as tx:
        add_job(tx.connection, plan, NOW)
    assert_harmless(call(silo_app, capsys, "jobs", "--state", silo.folder))


def test_what_two_people_sign_is_what_they_read(tmp_path, capsys, monkeypatch):
    change = BudgetChange(population="patients", epsilon_before=1.0, epsilon=900.0)
    lie = "x\x1b[2K\x1b[1A\x1b[2Kpatients: lifetime epsilon from 1 to 2\nbecause it is little"
    file = tmp_path / "change.json"
    file.write_bytes(
        Proposal(statement=ChangeStatement(log="cloister/a/b", number=1, change=change, reason=lie)).encode()
    )
    monkeypatch.setenv(admins_cli.ENV, "a long passphrase")
    call(silo_app, capsys, "admins", "key", "--out", tmp_path / "key.pem")
    asked = []
    monkeypatch.setattr(typer, "confirm", lambda question, **_: asked.append(question))
    assert run(silo_app, ["admins", "sign", str(file), "--as", "dr-weber", "--key", str(tmp_path / "key.pem")]) == 0
    said = capsys.readouterr().err
    assert asked == ["Sign this?"]
    assert "\x1b" not in said
    assert said.splitlines()[:2] == ["cloister/a/b", "patients: lifetime epsilon from 1 to 900"]
    assert len(said.splitlines()) == 3
