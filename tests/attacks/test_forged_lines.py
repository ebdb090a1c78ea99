"""Other people's texts forge no line at a steward's or an auditor's terminal, and hide none."""

import json
from datetime import UTC, datetime

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.person_key import load_person_key
from federation import job_cli, ledger_cli
from privacy.canonical import canonical_json
from privacy.errors import ExitCode
from privacy.ledger.codec import decode_entry
from privacy.plan import JobPlan
from privacy.two_person import TYPE
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
    """A proposal whose reason draws another change on the screen is none: nobody is asked to sign it."""
    change = {"kind": "budget", "population": "patients", "epsilon_before": 1.0, "epsilon": 900.0}
    lie = "x\x1b[2K\x1b[1A\x1b[2Kpatients: lifetime epsilon from 1 to 2\nbecause it is little"
    statement = {
        "type": TYPE, "log": "cloister/a/b", "key": "ab" * 32, "number": 1, "change": change, "reason": lie,
        "expires": "2026-12-01T00:00:00Z",
    }  # fmt: skip
    monkeypatch.setenv(admins_cli.ENV, "a long passphrase")
    call(silo_app, capsys, "admins", "key", "--out", tmp_path / "key.pem")
    words = ["--as", "dr-weber", "--key", str(tmp_path / "key.pem")]
    asked = []
    monkeypatch.setattr(typer, "confirm", lambda question, **_: asked.append(question))
    for name, reason in (("honest.json", "the study goes on"), ("forged.json", lie)):
        key = load_person_key(tmp_path / "key.pem", "a long passphrase").public_key().public_bytes_raw().hex()
        proposal = {"statement": statement | {"reason": reason}, "approvals": [], "signers": {"dr-weber": key}}
        file = tmp_path / name
        file.write_bytes(canonical_json(proposal))
        code = run(silo_app, ["admins", "sign", str(file), *words])
        said = capsys.readouterr().err
        assert "\x1b" not in said
        if reason == lie:
            assert (code, asked) == (int(ExitCode.PROTOCOL), ["Sign this?"]), "asked for the honest one alone"
            assert "has a character that does not show as itself" in said
        else:
            assert (code, asked) == (0, ["Sign this?"])
            assert "patients: lifetime epsilon from 1 to 900" in said
