"""`cloister certs` as its keeper uses it: every command, its JSON, its refusals."""

import json

import pytest

from certs.cli import app
from certs.names import PartyId, Role
from certs.queue import RequestQueue
from certs.wallet import Wallet
from privacy.errors import ExitCode, Unavailable
from runtime.console import run


@pytest.fixture
def certs(tmp_path, capsys):
    def certs(*arguments):
        words = [str(argument) for argument in arguments]
        code = run(app, [*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return certs


@pytest.fixture
def ca(tmp_path, certs):
    code, facts = certs("init", "heart-study", "--ca", tmp_path / "ca")
    assert (code, facts["federation"]) == (0, "heart-study")
    assert len(facts["fingerprint"].split()) == 16
    return tmp_path / "ca"


def test_issue_show_renew_revoke(ca, certs, tmp_path):
    hub = tmp_path / "hub"
    code, issued = certs("issue", "aggregator", "hub", "--out", hub, "--ca", ca, "--host", "localhost")
    assert (code, issued["party"]) == (0, "cloister://heart-study/aggregator/hub")
    assert certs("show", hub) == (0, issued)
    before = (hub / "tls.pem").read_bytes()
    code, renewed = certs("renew", "--wallet", hub, "--ca", ca)
    assert (code, renewed["fingerprint"]) == (0, issued["fingerprint"])
    assert (hub / "tls.pem").read_bytes() != before
    code, revoked = certs("revoke", "aggregator", "hub", "--ca", ca)
    assert (code, revoked["revoked"]) == (0, 3)
    code, shown = certs("show", ca)
    assert code == 0
    assert {entry["kind"] for entry in shown["issued"] if entry["revoked_utc"]} == {"tls", "identity"}


def test_people_read_the_fingerprint_and_the_dates(ca, tmp_path, capsys):
    run(app, ["issue", "coordinator", "carol", "--out", str(tmp_path / "carol"), "--ca", str(ca)])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("cloister://heart-study/coordinator/carol in ")
    assert len(second.removeprefix("identity fingerprint ").split()) == 16
    assert third.startswith("identity until 20")


@pytest.mark.parametrize(
    ("arguments", "why", "step"),
    [
        (("issue", "king", "a", "--out", "x"), "is unknown", "Use one of silo, aggregator, coordinator, auditor."),
        (("issue", "aggregator", "a", "--out", "x"), "must carry the host names", "--host"),
        (("issue", "silo", "A", "--out", "x"), "is not a name", "hospital-a"),
        (("revoke", "silo", "a"), "holds no certificate that is still good", "cloister certs show"),
        (("renew", "--wallet", "x"), "No such file", "Enrol"),
        (("show", "x"), "No such file", "Enrol"),
        (("sign", "x"), "cannot ask", "--yes"),
    ],
)
def test_refusals_say_why_and_what_next(ca, certs, monkeypatch, arguments, why, step):
    monkeypatch.chdir(ca.parent)
    code, facts = certs(*arguments)
    assert code == ExitCode.CONFIG
    assert why in facts["error"]["why"]
    assert step in facts["error"]["next_step"]


def test_an_offline_ca_works_through_its_queue(ca, certs, tmp_path, monkeypatch, capsys):
    ca_pem = (ca / "ca.pem").read_bytes()
    queue = RequestQueue(tmp_path / "queue", ca_pem)
    party = PartyId("heart-study", Role.SILO, "hospital-a")
    wallet = Wallet.create(tmp_path / "a", ca_pem, party)
    requests = wallet.requests()
    with pytest.raises(Unavailable):
        queue.issue(party, requests.tls, requests.identity, make_now())
    monkeypatch.setattr("typer.confirm", lambda question: "hospital-a with identity fingerprint" not in question)
    assert run(app, ["sign", str(tmp_path / "queue"), "--ca", str(ca)]) == 0
    assert capsys.readouterr().out.startswith("0 signed.")
    assert certs("sign", tmp_path / "queue", "--ca", ca, "--yes") == (0, {"signed": [party.uri], "refused": []})
    wallet.install(queue.issue(party, requests.tls, requests.identity, make_now()), make_now())
    assert wallet.check(make_now()) == party


def test_what_an_offline_ca_refuses_keeps_no_other_waiting(ca, certs, tmp_path):
    ca_pem = (ca / "ca.pem").read_bytes()
    queue = RequestQueue(tmp_path / "queue", ca_pem)
    wallets = []
    for number, name in enumerate(("mercy", "hospital-a", "mercy-two")):
        party = PartyId("heart-study", Role.SILO, name)
        wallets.append(Wallet.create(tmp_path / str(number), ca_pem, party))
        requests = wallets[-1].requests()
        with pytest.raises(Unavailable):
            queue.issue(party, requests.tls, requests.identity, make_now())
    for name in ("mercy", "mercy-two"):
        certs("issue", "aggregator", name, "--out", tmp_path / name, "--ca", ca, "--host", "localhost")
    code, facts = certs("sign", tmp_path / "queue", "--ca", ca, "--yes")
    assert (code, facts["signed"]) == (ExitCode.REFUSED, ["cloister://heart-study/silo/hospital-a"])
    assert len(facts["refused"]) == 2
    for name in ("mercy", "mercy-two"):
        assert any(f"aggregator/{name} has that name" in why for why in facts["refused"])


def make_now():
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_a_second_ca_in_one_folder_is_refused(ca, certs, tmp_path):
    code, facts = certs("init", "heart-study", "--ca", ca)
    assert code == ExitCode.CONFIG
    assert "already holds a certificate authority" in facts["error"]["why"]
