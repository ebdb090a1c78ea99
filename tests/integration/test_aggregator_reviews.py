"""`cloister aggregator reviews`: an auditor's review of the aggregator's ledger, from its bundle back into it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cloister import wire

from aggregator import cli, rotation
from aggregator.config import StateFolder
from aggregator.reviews import add_review
from aggregator.server import open_store, running
from aggregator.tables import LEDGER
from aggregator.witnessing import WitnessDesk
from certs.ca import CertificateAuthority
from certs.names import Role
from certs.verify import Kind
from federation import ledger_cli
from privacy.errors import ConfigError, ExitCode, VerificationError
from privacy.ledger.checkpoint import open_checkpoint
from privacy.ledger.codec import decode_entry
from privacy.review import Review, SignedReview
from runtime.console import run
from runtime.files import StateLock
from runtime.ledger_store import Ledger
from tests.pki import make_wallet
from tests.reading_pages import read_page
from tests.scripted import found_aggregator, make_cast

LOG = "cloister/test-federation/aggregator"
DUE = "2026-01-01"


def utc_now():
    return datetime.now(UTC)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """An aggregator whose ledger has an entry."""
    monkeypatch.chdir(tmp_path)
    state = found_aggregator(tmp_path / "aggregator")
    rotation.rotate(state, "every year", utc_now())
    return state


@pytest.fixture
def auditor(state, tmp_path):
    return party(state, tmp_path, Role.AUDITOR)


def party(state, folder, role):
    return make_wallet(CertificateAuthority.load(state.ca), folder, role, "ms-audit", utc_now())


def entries(state):
    with opened(state) as ledger:
        ledger.check()
        return [decode_entry(body) for body in ledger.entries()]


@contextmanager
def opened(state):
    """The aggregator's ledger."""
    store = open_store(state, state.load())
    with store.reading() as tx:
        yield Ledger(tx.connection, LEDGER)
    store.close()


def signed_review(state, wallet, **changes):
    identity = wallet.identity()
    with opened(state) as ledger:
        last = open_checkpoint(ledger.notes()[-1], LOG, ledger.identity.public_key)
    facts = {
        "log": LOG, "log_size": last.size, "log_root": last.root.hex(), "first_sequence": 0,
        "last_sequence": last.size - 1, "subject": "the first quarter", "finding": "observation",
        "remark": "One key.", "follow_up": "name a deputy", "due": DUE, "closes": None,
        "party": identity.party.uri, "public_key": identity.public_key.hex(),
    }  # fmt: skip
    said = Review.model_validate(facts | changes)
    return SignedReview.make(said, identity.certificate_pem.decode(), identity.sign)


def written(signed, name="review.json"):
    Path(name).write_bytes(signed.encode())
    return name


def said(capsys, state, *words):
    capsys.readouterr()
    code = run(cli.app, [*words, "--state", str(state.root)])
    told = capsys.readouterr()
    return code, told.out + told.err


def facts(capsys, state, *words):
    code, out = said(capsys, state, *words, "--json")
    assert code == 0, out
    return json.loads(out)


def ledger(*words):
    assert run(ledger_cli.app, list(map(str, words))) == 0


def test_a_review_goes_from_the_bundle_into_the_ledger_and_into_the_next_bundle(state, auditor, capsys):
    ca = state.ca / "ca.pem"
    ledger("export", "--state", state.root, "--out", "first.zip")
    words = ("--subject", "first quarter", "--finding", "deficiency", "--remark", "One key.")
    asks = ("--follow-up", "name a deputy", "--due", DUE)
    ledger("review", "first.zip", "--wallet", auditor.folder, *words, *asks, "--out", "review.json")
    added = facts(capsys, state, "reviews", "add", "review.json")
    assert (added["log"], added["log_size"], added["due"]) == (LOG, 1, DUE)
    *_, entry = entries(state)
    assert (entry.kind, entry.role, entry.actor) == ("review", "auditor", "cloister://test-federation/auditor/ms-audit")
    (row,) = facts(capsys, state, "reviews", "list")["reviews"]
    assert (row["entry"], row["open"], row["overdue"]) == (1, True, True)
    ledger("export", "--state", state.root, "--out", "second.zip")
    capsys.readouterr()
    ledger("verify", "second.zip", "--ca", ca, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [(each["entry"], each["finding"]) for each in found["reviews"]] == [(1, "deficiency")]
    assert found["reviewers_certified"] is True
    ledger("report", "second.zip", "--ca", ca, "--out", "page.html")
    page = read_page(Path("page.html").read_text())
    (table,) = [each for each in page.find("table") if "Reviews of this ledger" in each.text]
    assert "name a deputy" in table.text
    assert f"was due {DUE}" in table.text


def test_a_review_is_listed_as_overdue_until_another_closes_it(state, auditor, capsys):
    assert said(capsys, state, "reviews", "list") == (0, "no review yet\n")
    code, out = said(capsys, state, "reviews", "add", written(signed_review(state, auditor)))
    assert (code, f"ms-audit: observation; due {DUE}: name a deputy" in out) == (0, True)
    code, out = said(capsys, state, "reviews", "list")
    assert (code, f"    OVERDUE since {DUE}: name a deputy\n" in out) == (0, True)
    closing = {"finding": "in-order", "follow_up": None, "due": None, "closes": 1}
    closed = written(signed_review(state, auditor, **closing), "closing.json")
    assert said(capsys, state, "reviews", "add", closed)[0] == 0
    code, out = said(capsys, state, "reviews", "list")
    assert f"    closed, was due by {DUE}: name a deputy\n" in out
    again = written(signed_review(state, auditor, **closing, remark="Once more."), "again.json")
    code, out = said(capsys, state, "reviews", "add", again)
    assert (code, "entry 1 is no review with an open follow-up" in out) == (ExitCode.REFUSED, True)
    assert len(entries(state)) == 3


@pytest.mark.parametrize(
    ("role", "changes", "complaint"),
    [
        (Role.COORDINATOR, {}, "is no auditor"),
        (Role.AUDITOR, {"log_root": "00" * 32}, "signed no checkpoint of"),
        (Role.AUDITOR, {"log_size": 7}, "signed no checkpoint of 7 entries"),
        (Role.AUDITOR, {"log": LOG.replace("aggregator", "silo-a")}, f"federation/silo-a, not of {LOG}"),
        (Role.AUDITOR, {"closes": 0}, "is no review with an open follow-up"),
        (Role.AUDITOR, {"party": "cloister://test-federation/auditor/somebody"}, "or for another key"),
    ],
)
def test_a_review_that_proves_nothing_is_refused(state, tmp_path, capsys, role, changes, complaint):
    wallet = party(state, tmp_path, role)
    code, out = said(capsys, state, "reviews", "add", written(signed_review(state, wallet, **changes)))
    assert code in (ExitCode.VERIFICATION, ExitCode.REFUSED)
    assert complaint in out
    assert len(entries(state)) == 1


def test_a_review_goes_on_record_once_and_as_it_was_signed(state, auditor, capsys):
    signed = signed_review(state, auditor)
    altered = signed.model_copy(update={"review": signed.review.model_copy(update={"remark": "Two keys."})})
    code, out = said(capsys, state, "reviews", "add", written(altered))
    assert (code, "ms-audit did not sign it" in out) == (ExitCode.VERIFICATION, True)
    assert said(capsys, state, "reviews", "add", written(signed))[0] == 0
    code, out = said(capsys, state, "reviews", "add", written(signed))
    assert (code, "is on record already" in out) == (ExitCode.REFUSED, True)
    assert [entry.kind for entry in entries(state)] == ["key-rotation", "review"]


def test_an_auditors_certificate_counts_while_it_is_valid_and_of_this_federation(state, auditor, tmp_path):
    signed = signed_review(state, auditor)
    later = auditor.leaf(Kind.IDENTITY).not_after_utc + timedelta(seconds=1)
    with pytest.raises(VerificationError, match="expired"):
        add_review(state, signed, later)
    other = CertificateAuthority.create(tmp_path / "other", "test-federation", utc_now())
    stranger = make_wallet(other, tmp_path, Role.AUDITOR, "stranger", utc_now())
    with pytest.raises(VerificationError, match=r"auditor/stranger.*was not issued by this federation's CA"):
        add_review(state, signed_review(state, stranger), utc_now())
    assert len(entries(state)) == 1


def test_while_the_aggregator_runs_both_write_and_the_coordinator_sees_what_is_due(state, auditor, tmp_path, capsys):
    with running(state):
        assert StateLock.held(state.root)
        assert facts(capsys, state, "status")["reviews_due"] == []
        assert said(capsys, state, "reviews", "add", written(signed_review(state, auditor)))[0] == 0
        due = [{"entry": 1, "due": DUE, "follow_up": "name a deputy", "overdue": True}]
        elsewhere = StateFolder(tmp_path / "carol")
        shutil.copytree(state.coordinator, elsewhere.coordinator)
        shutil.copy(state.config, elsewhere.config)
        for folder in (state, elsewhere):
            assert facts(capsys, folder, "status")["reviews_due"] == due
            assert f"\nreview   entry 1, OVERDUE since {DUE}: name a deputy\n" in said(capsys, folder, "status")[1]
        cast = make_cast(tmp_path, state)
        one_round(cast, cast.write_job(tmp_path / "job"))
        kinds = [entry.kind for entry in entries(state)]
        assert kinds == ["key-rotation", "review", "round"]
        later = {"finding": "in-order", "follow_up": None, "due": None, "closes": 1}
        assert said(capsys, state, "reviews", "add", written(signed_review(state, auditor, **later)))[0] == 0
        assert facts(capsys, state, "status")["reviews_due"] == []
        cast.close()
    with running(state):
        assert [entry.kind for entry in entries(state)] == [*kinds, "review"]
    ledger("export", "--state", state.root, "--out", "bundle.zip")
    ledger("verify", "bundle.zip", "--ca", state.ca / "ca.pem")


def test_reviews_that_are_added_at_once_while_it_runs_are_all_witnessed(state, auditor, tmp_path):
    signed = [signed_review(state, auditor, remark=f"Remark {number}.") for number in range(8)]
    nothing = wire.ExchangeCheckpointsRequest(checkpoint=b"", proofs=(), seen=(), cosigned=(), since=0)
    with running(state) as listening, ThreadPoolExecutor(3) as at_once:
        make_cast(tmp_path, state).close()
        desk = WitnessDesk(listening.runner)
        added = [at_once.submit(add_review, state, each, utc_now()) for each in signed]
        while not all(each.done() for each in added):
            desk.exchange("silo-a", nothing)
        assert [each.result() for each in added] == [None] * 8
        (shown,) = desk.exchange("silo-a", nothing).shown
    with opened(state) as ledger:
        seen = open_checkpoint(shown.checkpoint.decode(), LOG, ledger.identity.public_key)
        assert (seen.size, seen.root) == (9, ledger.root_at(9))
    assert {entry.review.remark for entry in entries(state)[1:]} == {each.review.remark for each in signed}


def one_round(cast, job):
    with cast.coordinator() as coordinator:
        coordinator.submit(job)
    cast.deal()
    for step in ("join_round", "submit", "fingerprint", "consent", "applied"):
        for silo in cast.all:
            getattr(silo, step)(*([cast.update_of(silo.name)] if step == "submit" else []))


def test_a_folder_without_the_ledger_gets_none(state, auditor, tmp_path, capsys):
    file = written(signed_review(state, auditor))
    elsewhere = StateFolder(tmp_path / "carol")
    shutil.copytree(state.coordinator, elsewhere.coordinator)
    shutil.copy(state.config, elsewhere.config)
    for words in (("add", file), ("list",)):
        code, out = said(capsys, elsewhere, "reviews", *words)
        assert (code, "has no aggregator.db" in out, "on its machine" in out) == (ExitCode.CONFIG, True, True)
    assert not elsewhere.database.exists()
    code, out = said(capsys, state, "reviews", "add", "nowhere.json")
    assert (code, "nowhere.json" in out) == (ExitCode.CONFIG, True)


def test_another_key_than_the_ledgers_signs_nothing(state, auditor, tmp_path):
    signed = signed_review(state, auditor)
    other = found_aggregator(tmp_path / "other")
    shutil.rmtree(state.wallet)
    shutil.copytree(other.wallet, state.wallet)
    with pytest.raises(ConfigError, match="the identity at hand is another one"):
        add_review(state, signed, utc_now())
    assert len(entries(state)) == 1
