"""What is wrong with a command line is told before anything heavy is imported, and before the bundle is read."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from certs.ca import CertificateAuthority
from certs.names import Role
from tests.pki import make_wallet

PROGRAM = """
import contextlib, io, json, sys

lines, bundle = json.loads(sys.argv[1]), sys.argv[2]
opened = []
sys.addaudithook(lambda event, words: opened.append(words[0]) if event == "open" and words[0] == bundle else None)
from federation.cli import Root
from runtime.console import run

for line in lines:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run(Root(), line)
    heavy = ("privacy.ledger", "federation.verification", "runtime.bundle", "numpy", "sqlalchemy", "grpc")
    found = [name for name in heavy if name in sys.modules]
    print(json.dumps([code, found + opened, said.getvalue()]))
"""
REVIEW = ("review", "BUNDLE", "--wallet", "WALLET", "--subject", "all", "--remark", "read", "--out", "NEW")
LINES = [
    (("verify", "BUNDLE"), 2, "give either --key or --ca"),
    (("verify", "BUNDLE", "--key", "ab" * 32, "--ca", "THERE"), 2, "give either --key or --ca"),
    (("verify", "BUNDLE", "--key", "zz"), 3, "is not 64 hex digits"),
    (("verify", "BUNDLE", "--ca", "NEW"), 3, "No such file"),
    (("verify", "BUNDLE", "--key", "ab" * 32, "--quorum", "1"), 3, "needs --ca"),
    (("verify", "BUNDLE", "--ca", "THERE", "--quorum", "-1"), 2, "--quorum"),
    (("report", "BUNDLE", "--out", "NEW"), 2, "give either --key or --ca"),
    (("report", "BUNDLE", "--out", "NEW", "--key", "zz"), 3, "is not 64 hex digits"),
    (("report", "BUNDLE", "--out", "THERE", "--key", "ab" * 32), 3, "is there already"),
    (("report", "BUNDLE", "--out", "NEW", "--registry", "NEW", "--key", "ab" * 32), 3, "the same file as --out"),
    (("compare", "BUNDLE", "--ca", "THERE"), 2, "at least two bundles"),
    (("compare", "BUNDLE", "BUNDLE", "--ca", "NEW"), 3, "No such file"),
    (("show",), 2, "give either --state or --database"),
    (("export", "--out", "NEW"), 2, "give either --state or --database"),
    (("export", "--out", "THERE", "--state", "HERE"), 3, "is there already"),
    (("cosign", "BUNDLE", "--wallet", "WALLET", "--seen", "NEW", "--out", "THERE"), 3, "is there already"),
    (("cosign", "BUNDLE", "--wallet", "NEW", "--seen", "NEW", "--out", "NEW"), 3, "new"),
    ((*REVIEW, "--finding", "fine"), 2, "is not one of"),
    ((*REVIEW, "--finding", "deficiency"), 3, "a deficiency takes a follow-up"),
    ((*REVIEW, "--finding", "in-order", "--due", "2027-01-01"), 3, "and nothing else has one"),
    ((*REVIEW, "--finding", "in-order", "--first", "5", "--last", "4"), 3, "the entries examined"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Each line's exit code, what it imported or opened, and what it said."""
    folder = tmp_path_factory.mktemp("arguments")
    now = datetime.now(UTC)
    make_wallet(CertificateAuthority.create(folder / "ca", "heart", now), folder, Role.AUDITOR, "ms-audit", now)
    for name in ("bundle", "there"):
        (folder / name).write_bytes(b"nothing")
    real = {
        "BUNDLE": folder / "bundle", "THERE": folder / "there", "NEW": folder / "new",
        "WALLET": folder / "auditor-ms-audit", "HERE": folder,
    }  # fmt: skip
    lines = [["ledger", *(str(real.get(word, word)) for word in words)] for words, _, _ in LINES]
    command = [sys.executable, "-c", PROGRAM, json.dumps(lines), str(folder / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": ""})
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(LINES)), ids=[" ".join(words) for words, _, _ in LINES])
def test_a_wrong_line_is_told_before_any_work(told, number):
    _, code, complaint = LINES[number]
    found_code, heavy, said = told[number]
    assert (found_code, heavy) == (code, [])
    assert complaint in said
