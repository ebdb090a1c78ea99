"""An auditor as a witness, by hand: from bundle to bundle, and back into the institution's ledger."""

import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certs.names import Role
from federation import cosign_cli, review_cli
from federation.ledger_cli import app
from privacy.ledger.handed import HandedCosignature, SeenLogs, SeenState
from runtime import files
from runtime.console import run
from silo_agent import cli, command, witnesses_cli
from silo_agent.entries import key_entry
from tests.lone_silo import NOW, STEWARD, LoneSilo
from tests.pki import make_wallet

NAME = "cloister/test/auditor/ms-audit"


@pytest.fixture
def silo(tmp_path, monkeypatch):
    for module in (command, cli, witnesses_cli):
        monkeypatch.setattr(module, "now", lambda: NOW)
    at(monkeypatch, NOW)
    monkeypatch.chdir(tmp_path)
    silo = LoneSilo(tmp_path / "silo", charged=True, approved=False)
    make_wallet(silo.ca, tmp_path, Role.AUDITOR, "ms-audit", NOW)
    return silo


def at(monkeypatch, moment):
    """The time at the auditor's machine."""
    for module in (cosign_cli, review_cli):
        monkeypatch.setattr(module, "now", lambda: moment)


def export(silo, name, more=0):
    with silo.home.store.writing() as tx:
        for number in range(more):
            tx.record(key_entry(STEWARD, "pinned", "cloister://test/silo/other", "0c" * 32, f"pin {number}"))
        tx.ledger.checkpoint(silo.home.identity.sign, NOW)
    assert run(app, ["export", "--state", str(silo.folder), "--out", name]) == 0
    return name


def cosign(bundle, out="cosigned.json", *options):
    """The first visit, unless there was one."""
    first = [] if Path("seen.json").exists() else ["--first-visit"]
    words = ["cosign", bundle, "--wallet", "auditor-ms-audit", "--seen", "seen.json", "--out", out]
    return run(app, [*words, *first, *options])


def test_an_auditor_cosigns_and_the_next_export_says_so(silo, capsys):
    assert cosign(export(silo, "first.zip")) == 0
    capsys.readouterr()
    assert run(cli.app, ["witnesses", "add", "cosigned.json", "--state", str(silo.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"witness": NAME, "entries": 1}
    assert run(cli.app, ["witnesses", "list", "--state", str(silo.folder)]) == 0
    said = capsys.readouterr().out
    assert f"{NAME} cosigned 1 entries" in said
    assert cosign(export(silo, "second.zip", more=2), "again.json") == 0
    capsys.readouterr()
    words = ["verify", "second.zip", "--ca", "auditor-ms-audit/ca.pem"]
    assert run(app, [*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (witness,) = said["witnesses"]
    assert (witness["witness"], witness["entries"], witness["checkpoints"]) == (NAME, 1, 1)
    assert (said["entries"], said["covered_by"]) == (3, [1])
    assert run(app, [*words, "--quorum", "1"]) == 6
    assert "of 3 entries only 1 are under a checkpoint that 1 cosigned" in capsys.readouterr().err
    seen = json.loads(Path("seen.json").read_text())["logs"]["cloister/test/east"]
    assert seen["size"] == 3


def test_a_log_that_was_cut_back_or_rewritten_since_is_refused(silo, tmp_path, capsys):
    export(silo, "first.zip", more=3)
    assert cosign("first.zip") == 0
    other = LoneSilo(tmp_path / "other", charged=True, approved=False)
    capsys.readouterr()
    seen = json.loads(Path("seen.json").read_text())
    seen["logs"]["cloister/test/east"]["size"] = 40
    Path("seen.json").write_text(json.dumps(seen, separators=(",", ":"), sort_keys=True))
    assert cosign("first.zip", "second.json") == 6
    assert "has 4 entries, and had 40 at your last visit: it was cut back" in capsys.readouterr().err
    seen["logs"]["cloister/test/east"] = {"size": 2, "root": "00" * 32}
    Path("seen.json").write_text(json.dumps(seen, separators=(",", ":"), sort_keys=True))
    assert cosign("first.zip", "second.json") == 6
    assert "its first 2 entries are not those of your last visit: it was rewritten" in capsys.readouterr().err
    assert not Path("second.json").exists()
    assert other.kinds == ["policy"]


class PowerCutError(BaseException):
    pass


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_crash_at_a_write_loses_no_memory_of_what_was_cosigned(silo, capsys, monkeypatch, done):
    """So many writes are made before it."""
    export(silo, "before.zip")
    export(silo, "first.zip", more=3)
    real, writes = files.write_durably, []

    def write(*words):
        if len(writes) == done:
            raise PowerCutError
        real(*words)
        writes.append(words[0])

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_durably", write)
        with contextlib.suppress(PowerCutError):
            assert cosign("first.zip") == 0
    assert len(writes) == done
    if Path("cosigned.json").exists():
        assert cosign("before.zip", "older.json") == 6, "what it cosigned is remembered"
        assert "it was cut back" in capsys.readouterr().err
        Path("cosigned.json").rename("kept.json")
    assert cosign("first.zip") == 0, "and run again it goes through"
    assert json.loads(Path("seen.json").read_text())["logs"]["cloister/test/east"]["size"] == 4
    assert run(cli.app, ["witnesses", "add", "cosigned.json", "--state", str(silo.folder)]) == 0
    assert cosign("before.zip", "older.json") == 6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"size": 7}, "signed no checkpoint of 7 entries"),
        ({"log": "cloister/test/other"}, "signed no checkpoint of 1 entries"),
        ({"line": "— cloister/test/auditor/ms-audit AAAA"}, "is another witness'"),
        ({"certificate": "-----BEGIN CERTIFICATE-----\n"}, "certificate"),
        ({"type": "cloister/v1/other"}, "type"),
    ],
)
def test_a_cosignature_that_proves_nothing_is_refused(silo, capsys, change, complaint):
    assert cosign(export(silo, "first.zip")) == 0
    value = json.loads(Path("cosigned.json").read_text()) | change
    Path("cosigned.json").write_bytes(
        json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    )
    capsys.readouterr()
    assert run(cli.app, ["witnesses", "add", "cosigned.json", "--state", str(silo.folder)]) in (4, 6)
    assert complaint in capsys.readouterr().err


def test_what_a_bundle_was_compared_with_is_said(silo, capsys):
    assert cosign(export(silo, "first.zip")) == 0
    assert "cloister/test/east with 1 entries, seen for the first time, is cosigned in" in capsys.readouterr().out
    assert cosign(export(silo, "second.zip", more=2), "again.json") == 0
    assert "with 3 entries, continues the 1 entries seen before, is cosigned in" in capsys.readouterr().out
    assert cosign("second.zip", "third.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seen_before"] == 3


def test_a_mistyped_file_of_the_last_visit_is_no_first_visit(silo, capsys):
    export(silo, "first.zip")
    words = ["cosign", "first.zip", "--wallet", "auditor-ms-audit", "--out", "c.json", "--seen"]
    capsys.readouterr()
    assert run(app, [*words, "sene.json"]) == 3
    said = capsys.readouterr().err
    assert "sene.json" in said
    assert "No such file or directory" in said
    assert "Name the file of your last visit, or say --first-visit." in said
    Path("other.json").write_bytes(SeenLogs(logs={"cloister/test/west": SeenState(size=3, root="00" * 32)}).encode())
    assert run(app, [*words, "other.json"]) == 3
    assert "knows nothing of cloister/test/east" in capsys.readouterr().err
    assert [path for path in ("c.json", "sene.json") if Path(path).exists()] == []
    assert run(app, [*words, "other.json", "--first-visit"]) == 0
    assert SeenLogs.decode(Path("other.json").read_bytes()).logs.keys() == {"cloister/test/west", "cloister/test/east"}


def test_a_first_visit_is_not_paid_twice(silo, capsys):
    assert cosign(export(silo, "first.zip")) == 0
    seen = Path("seen.json").read_bytes()
    capsys.readouterr()
    assert cosign("first.zip", "again.json", "--first-visit") == 3
    said = capsys.readouterr().err
    assert "knows cloister/test/east, with 1 entries" in said
    assert "Leave out --first-visit." in said
    assert not Path("again.json").exists()
    assert Path("seen.json").read_bytes() == seen


REVIEW = ["--subject", "all", "--finding", "in-order", "--remark", "fine"]


@pytest.mark.parametrize(
    "words", [["cosign", "first.zip", "--first-visit", "--seen", "s.json"], ["review", "first.zip", *REVIEW]]
)
def test_nothing_is_signed_that_the_institution_would_refuse(silo, tmp_path, capsys, monkeypatch, words):
    """By no wallet but an auditor's, nor after its identity has expired; its TLS certificate may have."""
    make_wallet(silo.ca, tmp_path, Role.COORDINATOR, "boss", NOW)
    export(silo, "first.zip")
    capsys.readouterr()
    assert run(app, [*words, "--wallet", "coordinator-boss", "--out", "c.json"]) == 3
    said = capsys.readouterr().err
    assert "holds the certificates of cloister://test/coordinator/boss" in said
    assert "of role auditor" in said
    at(monkeypatch, NOW + timedelta(days=731))
    assert run(app, [*words, "--wallet", "auditor-ms-audit", "--out", "c.json"]) == 3
    said = capsys.readouterr().err
    assert "identity.pem" in said
    assert "expired at 2028-02-29T12:00:00Z" in said
    assert "`cloister certs issue` at the CA, into the same folder" in said
    assert not Path("c.json").exists()
    assert not Path("s.json").exists()
    at(monkeypatch, NOW + timedelta(days=90))
    assert run(app, [*words, "--wallet", "auditor-ms-audit", "--out", "c.json"]) == 0


def test_whose_certificate_has_expired_is_said(silo, capsys, monkeypatch):
    assert cosign(export(silo, "first.zip")) == 0
    monkeypatch.setattr(witnesses_cli, "now", lambda: NOW + timedelta(days=731))
    capsys.readouterr()
    assert run(cli.app, ["witnesses", "add", "cosigned.json", "--state", str(silo.folder)]) == 4
    said = capsys.readouterr().err
    assert "identity certificate of cloister://test/auditor/ms-audit" in said
    assert "have it issued anew (`cloister certs issue`)" in said


def test_only_auditors_hand_cosignatures_in(silo, tmp_path, capsys):
    """Whoever signed one without our command."""
    assert cosign(export(silo, "first.zip")) == 0
    handed = HandedCosignature.decode(Path("cosigned.json").read_bytes())
    boss = make_wallet(silo.ca, tmp_path, Role.COORDINATOR, "boss", NOW).identity()
    handed = handed.model_copy(update={"certificate": boss.certificate_pem.decode()})
    Path("c.json").write_bytes(handed.encode())
    capsys.readouterr()
    assert run(cli.app, ["witnesses", "add", "c.json", "--state", str(silo.folder)]) == 5
    assert "is no auditor's" in capsys.readouterr().err


def test_a_ledger_with_an_entry_of_the_future_is_not_cosigned(silo, capsys):
    """With a cosignature from before that time it would never verify again."""
    assert cosign(export(silo, "first.zip")) == 0
    ahead = replace(STEWARD, now=NOW + timedelta(hours=2))
    with silo.home.store.writing() as tx:
        tx.record(key_entry(ahead, "pinned", "cloister://test/silo/other", "0c" * 32, "by a clock that was ahead"))
    seen = Path("seen.json").read_bytes()
    capsys.readouterr()
    assert cosign(export(silo, "later.zip"), "again.json") == 6
    assert (
        "it has an entry of 2026-03-01T14:00:00Z, and by this machine's clock it is 2026-03-01T12"
        in capsys.readouterr().err
    )
    assert (Path("seen.json").read_bytes(), Path("again.json").exists()) == (seen, False)
    assert run(cli.app, ["witnesses", "add", "cosigned.json", "--state", str(silo.folder)]) == 3
    assert "it has an entry of" in capsys.readouterr().err
