"""Every option whose text goes on record refuses what a ledger does not take, before anything else is looked at."""

import pytest
from annotated_types import MaxLen

from federation.cli import Root
from privacy.fields import Text
from privacy.two_person import MOST_GOOD
from runtime.console import run
from runtime.options import MOST_TEXT
from silo_agent.command import MOST_DAYS

OUT = ("--out", "new")
CHANGE = ("silo", "budget", "change", "patients", "--epsilon", "9", *OUT)
CAP = ("silo", "budget", "cap", "patients", "--epsilon", "1")
REVIEW = ("ledger", "review", "bundle.zip", "--wallet", "wallet", "--finding", "in-order", *OUT)
OPTIONS = [
    (CHANGE, "--reason"),
    (CAP, "--reason"),
    ((*CAP, "--reason", "r"), "--purpose"),
    (("silo", "budget", "set", "patients", "--epsilon", "1", "--delta", "1e-4"), "--legal-basis"),
    (("silo", "budget", "set", "patients", "--epsilon", "1", "--delta", "1e-4"), "--dpia"),
    (("silo", "approve", "job"), "--legal-basis"),
    (("silo", "approve", "job"), "--dpia"),
    (("silo", "rotate-key", "--token", "t"), "--reason"),
    (("aggregator", "rotate-key"), "--reason"),
    (("silo", "admins", "add", "dr-weber", "--public-key", "ab" * 32, *OUT), "--reason"),
    (("silo", "admins", "remove", "dr-weber", *OUT), "--reason"),
    ((*REVIEW, "--remark", "r"), "--subject"),
    ((*REVIEW, "--subject", "s"), "--remark"),
    ((*REVIEW, "--subject", "s", "--remark", "r"), "--follow-up"),
]


def said_by(capsys, *words):
    code = run(Root(), words)
    return code, " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(("words", "option"), OPTIONS, ids=[f"{words[:3]}{option}" for words, option in OPTIONS])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "give 1 to 400 characters; these are 0"),
        ("x" * 401, "give 1 to 400 characters; these are 401"),
        ("\udcff", "its bytes are no UTF-8 text"),
    ],
    ids=["empty", "long", "bytes"],
)
def test_a_text_that_no_ledger_takes_is_a_usage_error(tmp_path, monkeypatch, capsys, words, option, text, complaint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    code, said = said_by(capsys, *words, option, text)
    assert (code, option in said, complaint in said) == (2, True, True), said


@pytest.mark.parametrize(
    "command", [CHANGE, CAP, ("silo", "budget", "set", "patients", "--epsilon", "1", "--delta", "1e-4")]
)
def test_a_populations_name_that_is_no_text_is_a_usage_error(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["caf\udce9" if word == "patients" else word for word in command]
    code, said = said_by(capsys, *words)
    assert (code, "POPULATION" in said, "its bytes are no UTF-8 text" in said) == (2, True, True), said


def test_the_longest_text_is_that_of_the_ledger():
    (rule,) = [rule for rule in Text.__metadata__[0].metadata if isinstance(rule, MaxLen)]
    assert rule.max_length == MOST_TEXT


def test_a_change_is_good_for_no_longer_than_the_ledger_takes():
    assert MOST_GOOD.days == MOST_DAYS


@pytest.mark.parametrize("level", ["", "loud"])
def test_a_log_level_is_one_of_four(tmp_path, capsys, level):
    code, said = said_by(capsys, "silo", "run", "--log-level", level, "--state", str(tmp_path))
    assert (code, "--log-level" in said) == (2, True)
    code, said = said_by(capsys, "silo", "run", "--log-level", "INFO", "--state", str(tmp_path))
    assert (code, "silo.toml" in said) == (3, True), said


@pytest.mark.parametrize("person", ["", "x" * 500, "Dr. Weber"])
def test_who_signs_has_a_name(tmp_path, capsys, person):
    code, said = said_by(capsys, "silo", "admins", "sign", "change.json", "--as", person, "--key", "key.pem", "--yes")
    assert (code, "--as" in said, "is not a name" in said) == (3, True, True)
