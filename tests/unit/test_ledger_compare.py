"""Logs side by side: every kind of disagreement has its words, and an older export denies nothing."""

from dataclasses import replace

import pytest

from privacy.budget import RoundKey
from privacy.ledger.codec import decode_entry
from privacy.ledger.compare import Account, account_of, compare
from privacy.ledger.entry import ReleaseEntry, RoundEntry
from privacy.ledger.merkle import leaf_hash
from tests.ledger_logs import JOB, sample_log

EARLY, LATE = "2026-03-01T09:00:00Z", "2026-03-01T10:00:00Z"
KEY = RoundKey(JOB, 1)
DIGESTS = {
    "transcript_sha256": "aa" * 32,
    "sum_sha256": "bb" * 32,
    "adapter_before_sha256": "cc" * 32,
    "adapter_after_sha256": "dd" * 32,
}


def ended(institution: str, outcome: str = "published", **changes: object) -> RoundEntry:
    fields = {"members": ("east", "west"), **DIGESTS, **changes}
    return RoundEntry(
        institution=institution, actor="agent", role="agent", utc=EARLY, job=JOB, round=1, outcome=outcome, reason=None,
        **fields,
    )  # fmt: skip


def account(name: str, *, last_utc: str = LATE, entry: RoundEntry | None = None, silent: bool = False) -> Account:
    keeps = name != "aggregator"
    said = {} if silent else {KEY: entry or ended(name)}
    released = frozenset({KEY} if keeps and not silent else ())
    return Account(f"cloister/heart/{name}", keeps, (leaf_hash(name.encode()),), last_utc, said, released)


EAST, WEST, AGGREGATOR = (account(name) for name in ("east", "west", "aggregator"))


def test_logs_that_say_the_same_agree():
    assert compare([EAST, WEST, AGGREGATOR]) == ()
    assert compare([EAST, EAST]) == ()


@pytest.mark.parametrize("name", ["members", *DIGESTS])
def test_each_thing_said_of_a_round_is_compared(name):
    other = ("east", "north", "west") if name == "members" else "00" * 32
    (found,) = compare([EAST, account("west", entry=ended("west", **{name: other}))])
    assert (found.key, found.who) == (KEY, ("east", "west"))
    assert found.what.startswith(f"{name} differs (east: ")


def test_a_member_that_is_silent_of_a_round_with_its_update_is_named():
    words = [found.what for found in compare([EAST, account("west", silent=True)])]
    assert words == [
        "an update of west is in the sum, and its log released none",
        "is not spoken of in the log of west, and published elsewhere",
    ]


def test_a_round_that_one_published_and_another_abandoned_is_named():
    nothing = {"members": (), **dict.fromkeys(DIGESTS), "adapter_before_sha256": "cc" * 32}
    (found,) = compare([EAST, account("west", entry=ended("west", "aborted", **nothing))])
    assert found.what == "ended aborted in the log of west, and published elsewhere"
    (found,) = compare([EAST, account("aggregator", silent=True)])
    assert found.what == "is not spoken of in the log of aggregator, and published elsewhere"


def test_who_was_not_in_the_sum_or_exported_before_owes_nothing():
    assert compare([EAST, WEST, account("north", silent=True)]) == ()
    assert compare([EAST, account("west", silent=True, last_utc=EARLY)]) == ()
    assert compare([account("east", silent=True), account("west", silent=True)]) == ()


def test_an_institution_that_signed_two_logs_is_named():
    longer = replace(EAST, leaves=(*EAST.leaves, leaf_hash(b"more")))
    assert compare([longer, EAST]) == ()
    forked = replace(EAST, leaves=(leaf_hash(b"other"), leaf_hash(b"more")))
    (found,) = compare([EAST, forked])
    assert (found.key, found.who) == (None, ("east",))
    assert "signed two logs: that of 1 entries is no beginning of that of 2" in found.what


def test_an_account_holds_what_a_log_says_of_rounds():
    log = sample_log()
    entries = [decode_entry(body) for body in log.entries]
    found = account_of("cloister/heart/hospital-a", log.leaves, entries, keeps_updates=True)
    assert found.institution == "hospital-a"
    assert set(found.rounds) == {entry.key for entry in entries if isinstance(entry, RoundEntry)}
    assert found.released == {entry.key for entry in entries if isinstance(entry, ReleaseEntry)}
    assert found.last_utc == entries[-1].utc
