"""Names that an export leaves out: the ledger still verifies, and nobody finds them in it, or puts others there.

Adversary: who gets a redacted bundle and wants the names; the institution, which wants other names to stand there.
"""

import itertools
import json

import pytest

from certs.wallet import Wallet
from federation.ledger_cli import app
from privacy.canonical import canonical_json
from privacy.ledger.codec import decode_entry
from privacy.ledger.openings import Opening, commitments
from runtime.bundle_form import ENTRIES, OPENINGS
from runtime.console import run
from tests.bundles import members_of, written
from tests.lone_silo import NOW, LoneSilo


@pytest.fixture
def silo(tmp_path):
    silo = LoneSilo(tmp_path / "silo", charged=True, approved=False)
    (silo.folder / "silo.toml").write_text(
        (silo.folder / "silo.toml").read_text() + '\n[ledger]\ncommitted = ["actor", "reason"]\n'
    )
    return silo


def export(silo, out, *words):
    with silo.home.store.writing() as tx:
        tx.ledger.checkpoint(silo.home.identity.sign, NOW)
    assert run(app, ["export", "--state", str(silo.folder), "--out", str(out), *words]) == 0
    return out


def verified(silo, bundle, capsys):
    capsys.readouterr()
    key = Wallet(silo.folder / "wallet").identity().public_key.hex()
    code = run(app, ["verify", str(bundle), "--key", key, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_name_that_is_left_out_is_nowhere_and_the_tree_verifies(silo, tmp_path, capsys):
    whole, part = export(silo, tmp_path / "whole.zip"), export(silo, tmp_path / "part.zip", "--redact", "actor")
    assert b'"steward"' in b"".join(members_of(whole)[name] for name in (OPENINGS,))
    assert b'"value":"steward"' not in part.read_bytes()
    assert [c for body in members_of(part)[ENTRIES].splitlines() for c in commitments(decode_entry(body))] == ["actor"]
    code, said = verified(silo, whole, capsys)
    assert (code, said["evidence"]["texts_opened"], said["evidence"]["texts_left_out"]) == (0, 1, {})
    code, said = verified(silo, part, capsys)
    assert (code, said["redacted"]) == (0, ["actor"])
    assert (said["evidence"]["texts_opened"], said["evidence"]["texts_left_out"]) == (0, {"actor": 1})
    assert members_of(part)[ENTRIES] == members_of(whole)[ENTRIES]


def test_a_commitment_is_salted(silo, tmp_path):
    """Names are few, and would be tried one by one: two entries by one person look alike to nobody."""
    first, second = Opening.of("dr-weber", b"\0" * 32), Opening.of("dr-weber", b"\1" * 32)
    assert first.text != second.text
    (entry,) = [decode_entry(b) for b in members_of(export(silo, tmp_path / "b.zip"))[ENTRIES].splitlines()]
    guesses = itertools.product(("steward", "dr-weber", "root"), (bytes(32), b"\xff" * 32))
    assert not [guess for guess in guesses if Opening.of(*guess).text == entry.actor]


def changed(**changes):
    def change(openings):
        return [canonical_json(json.loads(openings[0]) | changes), *openings[1:]]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (changed(value="dr-weber"), "is not of this commitment"),
        (changed(salt="00" * 32), "is not of this commitment"),
        (changed(sha256="00" * 32), "is not of this commitment"),
        (changed(more=1), "more"),
        (lambda openings: [*openings, *openings], "stands there twice"),
        (
            lambda openings: [canonical_json(Opening.of("a stray", bytes(32)).model_dump()), *openings],
            "is of no entry",
        ),
        (lambda openings: [b"{}", *openings], "sha256"),
        (lambda openings: [b"no json", *openings], "is not canonical JSON"),
    ],
)
def test_no_other_text_can_be_put_in_its_place(silo, tmp_path, capsys, change, complaint):
    members = members_of(export(silo, tmp_path / "b.zip"))
    lines = members[OPENINGS].splitlines()
    forged = written(tmp_path / "f.zip", members | {OPENINGS: b"".join(each + b"\n" for each in change(lines))})
    code, said = verified(silo, forged, capsys)
    assert code == 6
    assert complaint in f"{said['fault']['what']}: {said['fault']['why']}"


def test_what_was_not_committed_to_cannot_be_left_out_afterwards(silo, tmp_path, capsys):
    assert run(app, ["export", "--state", str(silo.folder), "--out", "x.zip", "--redact", "purpose"]) == 3
    assert "'purpose' is none of actor, dpia, legal_basis, reason" in capsys.readouterr().err
    with pytest.raises(Exception, match="begins like a commitment"):
        Opening.of("sha256:abc", bytes(32))
    assert tmp_path.exists()


def test_the_ledger_at_home_shows_the_names(silo, capsys):
    assert run(app, ["show", "--state", str(silo.folder)]) == 0
    assert "by steward" in capsys.readouterr().out
