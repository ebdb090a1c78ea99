"""`cloister ledger`: what an auditor types, and what comes back."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time_ns

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.profile import signing_request
from federation.bundling import gather
from federation.ledger_cli import app
from privacy.ledger.codec import decode_entry
from runtime.console import run
from runtime.database import open_database, write
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.tables import LEDGER, METADATA
from tests.bundles import members_of, recounted, written
from tests.ledger_logs import OWN, key_entry, sample_log

KEY = OWN
PUBLIC = KEY.public_key().public_bytes_raw()
NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)


def call(*words: object) -> int:
    return run(app, [str(word) for word in words])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state of #1?"
    folder.mkdir()
    engine = open_database(folder / "silo.db")
    METADATA.create_all(engine)
    with write(engine) as connection:
        ledger = Ledger.begin(connection, LEDGER, LogIdentity("heart", "hospital-a", PUBLIC))
        for entry in map(decode_entry, sample_log().entries):
            if entry.kind != "review":  # its auditor has no certificate
                ledger.append(entry)
        ledger.checkpoint(KEY.sign, NOW)
        ledger.append(key_entry())
    engine.dispose()
    return folder


@pytest.fixture
def exported(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Of a log whose job nobody ever planned: there is no evidence to export."""
    bundle = tmp_path / "export.zip"
    assert call("export", "--state", state, "--out", bundle, "--since", "2100-01-01") == 0
    assert "22 entries, 0 plans, 0 transcripts and 0 self-tests written to" in (said := capsys.readouterr().out)
    assert "1 newer ones have no signed checkpoint yet" in said
    return bundle


def test_show_has_a_line_for_every_entry_at_any_width(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert call("show", "--state", state) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "cloister/heart/hospital-a: 23 entries"
    assert [int(line.split()[0]) for line in lines] == list(range(23))
    said = "\n".join(lines)
    for word in ("policy", "by dr-weber", "cardiology", "job-approval", "presumed", "round 3", "spent", "left"):
        assert word in said


def test_show_gives_the_entries_to_a_program(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{state.rename(state.with_name('plain')) / 'silo.db'}"
    assert call("show", "--database", url, "--last", 2, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["size"], [entry["sequence"] for entry in value["entries"]]) == (23, [21, 22])


def test_an_export_verifies_with_the_pinned_key(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("verify", exported, "--key", PUBLIC.hex()) == 0
    said = capsys.readouterr().out
    assert "cloister/heart/hospital-a: verified, 22 entries, 1 signed checkpoints" in said
    assert "cardiology: epsilon" in said
    assert "the export was of since 2100-01-01T00:00:00Z: 2 published rounds were not compared" in said
    assert call("verify", exported, "--key", PUBLIC.hex(), "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["verified"] is True
    assert value["populations"][0]["rounds_committed"] == 3


def test_a_tampered_export_ends_with_the_verification_code_and_names_the_entry(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = members_of(exported)
    lines = members["entries.jsonl"].split(b"\n")
    lines[6] = lines[6].replace(b"aggregator", b"aggregatop")
    written(exported, members | {"entries.jsonl": b"\n".join(lines)})
    assert call("verify", exported, "--key", PUBLIC.hex()) == 6
    said = capsys.readouterr().err
    assert "cloister: entry 6\n  why:  it is not the entry that was signed for" in said
    assert call("verify", exported, "--key", PUBLIC.hex(), "--json") == 6
    value = json.loads(capsys.readouterr().out)
    assert (value["verified"], value["fault"]["entry"]) == (False, 6)


def test_an_export_is_of_one_moment_while_the_agent_writes(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A round that ends between looking for evidence and writing would be in the bundle without its transcript."""

    def gather_and_go_on(*words: object) -> object:
        found = gather(*words)
        engine = open_database(state / "silo.db")
        with write(engine) as connection:
            ledger = Ledger(connection, LEDGER)
            ledger.append(key_entry())
            ledger.checkpoint(KEY.sign, NOW)
        engine.dispose()
        return found

    monkeypatch.setattr("federation.bundling.gather", gather_and_go_on)
    for name in ("first", "second"):
        assert call("export", "--state", state, "--out", tmp_path / name, "--since", "2100-01-01") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["22", "24"]


def certified(bundle: Path, role: Role, key: Ed25519PrivateKey = KEY, since: datetime = NOW) -> Path:
    """Put a certificate for the key into the export; the CA that issued it."""
    ca = CertificateAuthority.create(bundle.with_name(f"ca-{role}-{time_ns()}"), "heart", since)
    party = PartyId("heart", role, "hospital-a")
    request = signing_request(key, party).public_bytes(Encoding.PEM)
    written(bundle, recounted(members_of(bundle) | {"identity.pem": ca.sign_identity(request, party, since)}))
    place = bundle.with_name("ca.pem")
    place.write_bytes(ca.ca_pem)
    return place


def test_an_export_verifies_with_the_ca_and_its_certificate(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca = certified(exported, Role.SILO)
    assert call("verify", exported, "--ca", ca) == 0
    assert PUBLIC.hex() in capsys.readouterr().out


def test_a_certificate_that_proves_nothing_is_refused(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca = certified(exported, Role.SILO)
    other_ca = ca.rename(ca.with_name("other.pem"))
    certified(exported, Role.SILO)
    assert call("verify", exported, "--ca", other_ca) == 6
    assert "was not issued by this federation's CA" in capsys.readouterr().err
    assert call("verify", exported, "--ca", certified(exported, Role.AUDITOR)) == 6
    assert "keeps no ledger" in capsys.readouterr().err
    assert call("verify", exported, "--ca", certified(exported, Role.SILO, Ed25519PrivateKey.generate())) == 6
    assert "is for another key than the bundle says that the log has now" in capsys.readouterr().err
    members = members_of(exported)
    del members["identity.pem"]
    written(exported, recounted(members))
    assert call("verify", exported, "--ca", ca.with_name("ca.pem")) == 3
    assert "--key instead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("verify", "EXPORT", "--key", "ab" * 32), 6, "is of a log that never had the key"),
        (("verify", "EXPORT", "--key", "ab"), 3, "is not 64 hex digits"),
        (("verify", "EXPORT"), 2, "give either --key or --ca"),
        (("verify", "nowhere", "--key", "ab" * 32), 3, "No such file"),
        (("verify", "STATE", "--key", "ab" * 32), 3, "Is a directory"),
        (("export", "--state", "STATE", "--out", "new", "--job", "tiny"), 3, "is no job here"),
        (("export", "--state", "STATE", "--out", "new", "--since", "spring"), 2, "--since"),
        (("export", "--state", "STATE", "--out", "new"), 3, "is not kept in this state folder"),
        (("export", "--state", "STATE", "--out", "no/new", "--since", "2100-01-01"), 3, "no does not exist"),
        (("show",), 2, "give either --state or --database"),
        (("show", "--state", "nowhere"), 3, "holds neither silo.db nor aggregator.db"),
        (("show", "--database", "nonsense"), 3, "cannot be read"),
        (("show", "--database", "sqlite:///nowhere.db"), 3, "cannot be read"),
        (("export", "--state", "STATE", "--out", "EXPORT"), 3, "is there already"),
    ],
)
def test_bad_input_is_named(
    words: tuple[str, ...], code: int, complaint: str, state: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = {"EXPORT": exported, "STATE": state}
    assert call(*(real.get(word, word) for word in words)) == code
    assert complaint in capsys.readouterr().err


def _no_lists(leaves: bytes) -> tuple[bytes, ...]:
    """What is nearly a list of hashes: the same ones, written otherwise, or one that is cut off."""
    spaced = leaves.replace(b"\n", b" \n")
    return b"zz\n", b"\n", leaves.upper(), leaves[:-1], leaves + b"\n", spaced, b"\n" + leaves, leaves[:-3] + b"\n"


def test_damaged_files_are_evidence_not_bugs(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = members_of(exported)
    for name, content, complaint in (
        *(("leaves.txt", leaves, "not a list of hashes") for leaves in _no_lists(whole["leaves.txt"])),
        ("checkpoints.txt", b"\xff", "it is not text"),
        ("checkpoints.txt", b"nothing\n", "not a list of signed notes"),
        ("checkpoints.txt", b"", "holds no signed checkpoint"),
    ):
        written(exported, whole | {name: content})
        assert call("verify", exported, "--key", PUBLIC.hex()) == 6
        assert complaint in capsys.readouterr().err
    written(exported, whole | {"entries.jsonl": b"x" * 100_000})
    assert call("verify", exported, "--key", PUBLIC.hex()) == 6
    assert "entry 0" in capsys.readouterr().err


def test_a_state_folder_that_is_no_database_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "silo.db").write_bytes(b"not a database at all, only bytes" * 100)
    assert call("show", "--state", tmp_path) == 3
    assert "cannot be read" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, federation.ledger_cli\n"
        "print([m for m in ('sqlalchemy', 'scipy', 'dp_accounting', 'torch', 'tenseal', 'grpc') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_no_entry_is_older_than_the_ca(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody had a certified key then: the clock was wrong, or the entry was made to look older than it is."""
    ca = certified(exported, Role.SILO, since=NOW + timedelta(hours=1))
    assert call("verify", exported, "--ca", ca) == 6
    assert "entry 0\n  why:  utc: 2026-03-01T09:00:00Z is stated, and no key of the log was" in capsys.readouterr().err
    assert call("verify", exported, "--ca", certified(exported, Role.SILO)) == 0
