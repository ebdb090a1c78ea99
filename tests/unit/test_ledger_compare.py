"""Logs side by side: every disagreement has its words; an older export denies nothing, and agrees to nothing."""

from dataclasses import replace

import pytest

from privacy.budget import RoundKey
from privacy.ledger.account import Account, PlanKeys, account_of
from privacy.ledger.codec import decode_entry
from privacy.ledger.compare import Disagreement, Undetermined, compare
from privacy.ledger.entry import ReleaseEntry, RoundEntry
from privacy.ledger.evidence import Evidence
from privacy.ledger.merkle import leaf_hash
from privacy.ledger.witnessed import WitnessReport
from tests.ledger_logs import JOB, sample_log

BEFORE, EARLY, LATE = "2026-02-01T09:00:00Z", "2026-03-01T09:00:00Z", "2026-03-01T10:00:00Z"
KEYS = {name: f"{number:02}" * 32 for number, name in enumerate(("east", "north", "west", "aggregator"))}
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
    return Account(
        origin=f"cloister/heart/{name}",
        keeps_updates=keeps,
        keys=(KEYS[name],),
        leaves=(leaf_hash(name.encode()),),
        last_utc=last_utc,
        cosigned_utc=None,
        rounds={} if silent else {KEY: entry or ended(name)},
        released={KEY: "01" * 32} if keeps and not silent else {},
        updates={},
        plans={},
    )


EAST, WEST, AGGREGATOR = (account(name) for name in ("east", "west", "aggregator"))


def disagreements(*accounts: Account) -> tuple[Disagreement, ...]:
    found = compare(accounts)
    assert not found.undetermined
    assert found.agree == (not found.disagreements)
    return found.disagreements


def undetermined(*accounts: Account) -> tuple[Undetermined, ...]:
    found = compare(accounts)
    assert not found.disagreements
    assert found.agree == (not found.undetermined)
    return found.undetermined


def test_logs_that_say_the_same_agree():
    assert compare([EAST, WEST, AGGREGATOR]).agree
    assert compare([EAST, EAST]).agree


@pytest.mark.parametrize("name", ["members", *DIGESTS])
def test_each_thing_said_of_a_round_is_compared(name):
    other = ("east", "north", "west") if name == "members" else "00" * 32
    (found,) = disagreements(EAST, account("west", entry=ended("west", **{name: other})))
    assert (found.key, found.who) == (KEY, ("east", "west"))
    assert found.what.startswith(f"{name} differs (east: ")


LEFT_OUT = [
    "an update of west is in the sum, and its log released none",
    "is not spoken of in the log of west, and published elsewhere",
]


def test_a_member_that_is_silent_of_a_round_with_its_update_is_named():
    assert [found.what for found in disagreements(EAST, account("west", silent=True))] == LEFT_OUT


def test_a_round_that_one_published_and_another_abandoned_is_named_whatever_their_clocks_say():
    nothing = {"members": (), **dict.fromkeys(DIGESTS), "adapter_before_sha256": "cc" * 32}
    for utc in (BEFORE, EARLY, LATE):
        aborted = account("west", entry=ended("west", "aborted", **nothing), last_utc=utc)
        (found,) = disagreements(EAST, aborted)
        assert found.what == "ended aborted in the log of west, and published elsewhere"
    (found,) = disagreements(EAST, account("aggregator", silent=True))
    assert found.what == "is not spoken of in the log of aggregator, and published elsewhere"


def test_who_says_how_a_round_ended_has_released_its_update_before_whatever_its_clock_says():
    (found,) = disagreements(EAST, replace(WEST, released={}, last_utc=BEFORE))
    assert found.what == LEFT_OUT[0]


def test_who_was_not_in_the_sum_owes_nothing():
    assert compare([EAST, WEST, account("north", silent=True)]).agree
    assert compare([account("east", silent=True), account("west", silent=True)]).agree


@pytest.mark.parametrize("utc", [BEFORE, EARLY])
@pytest.mark.parametrize("who", ["west", "aggregator"])
def test_an_export_that_ends_before_a_round_leaves_it_undetermined(who, utc):
    """Its clock may have been set back: it denies nothing, and agrees to nothing."""
    (found,) = undetermined(EAST, account(who, silent=True, last_utc=utc))
    assert (found.key, found.who, found.after_utc) == (KEY, who, EARLY)
    why = f"names nothing of it; by its own account its export ends before it, at {utc}"
    assert found.what == f"the log of {who} {why}"


def test_an_export_from_the_middle_of_a_round_and_an_empty_one_leave_it_undetermined():
    begun = replace(account("west", silent=True, last_utc=BEFORE), released={KEY: "01" * 32})
    (found,) = undetermined(EAST, begun)
    assert "does not say how it ended; by its own account" in found.what
    (found,) = undetermined(EAST, account("west", silent=True, last_utc=""))
    assert found.what.endswith("its export is empty")


def test_a_witness_who_saw_a_log_after_a_round_knows_better_than_its_clock():
    backdated = account("west", silent=True, last_utc=BEFORE)
    found = disagreements(EAST, replace(backdated, cosigned_utc=LATE))
    assert [each.what for each in found] == LEFT_OUT
    assert undetermined(EAST, replace(backdated, cosigned_utc=EARLY)), "cosigned before the round was over"


def test_a_log_that_names_a_later_round_of_the_job_goes_on_after_one_that_it_leaves_out():
    later = ended("west").model_copy(update={"round": 2})
    other = replace(account("west", entry=later, last_utc=BEFORE), rounds={later.key: later})
    other = replace(other, released={later.key: "02" * 32})
    east = replace(EAST, rounds={KEY: ended("east"), later.key: later}, released={KEY: "01" * 32, later.key: "01" * 32})
    assert [each.what for each in disagreements(east, other)] == LEFT_OUT


def test_an_older_export_beside_the_newest_of_its_log_leaves_nothing_open():
    older = account("east", silent=True, last_utc=BEFORE)
    newer = replace(EAST, leaves=(*older.leaves, leaf_hash(b"more")))
    for logs in ([older, newer, WEST], [WEST, newer, older]):
        assert compare(logs).agree
    forked = replace(newer, leaves=(leaf_hash(b"other"), leaf_hash(b"more")))
    found = compare([older, forked, WEST])
    assert [each.who for each in found.disagreements] == [("east",)]
    assert [each.who for each in found.undetermined] == ["east"], "what it signed too is not taken back"


def test_an_update_is_the_one_that_others_have_in_their_transcripts():
    seen = {KEY: {"east": "01" * 32, "west": "01" * 32}}
    assert compare([EAST, replace(WEST, updates=seen), replace(AGGREGATOR, updates=seen)]).agree
    other = {KEY: seen[KEY] | {"east": "02" * 32}}
    (found,) = disagreements(EAST, replace(WEST, updates=other), replace(AGGREGATOR, updates=other))
    assert (found.key, found.who) == (KEY, ("east", "aggregator", "west"))
    assert found.what == (
        "the update that east released is not the one in the sum, by the transcript of aggregator, west"
    )


def test_an_older_export_lends_its_transcripts():
    """A newer one may be of a scope that has none."""
    older = replace(WEST, updates={KEY: {"east": "02" * 32}})
    (found,) = disagreements(EAST, older, replace(WEST, leaves=(*WEST.leaves, leaf_hash(b"more"))))
    assert found.who == ("east", "west")


def planned(utc: str = EARLY, **keys: str) -> dict[str, PlanKeys]:
    return {JOB: PlanKeys(utc, KEYS | keys)}


def test_a_plan_names_institutions_by_keys_that_their_logs_have_had():
    assert compare([replace(EAST, plans=planned()), WEST, AGGREGATOR]).agree
    assert compare([replace(EAST, plans=planned(north="ff" * 32)), WEST]).agree, "whose bundle is not there"
    rotated = replace(WEST, keys=(KEYS["west"], "ff" * 32))
    for key in rotated.keys:
        assert compare([replace(EAST, plans=planned(west=key)), rotated]).agree
    for who, log in (("west", WEST), ("aggregator", AGGREGATOR)):
        accused = replace(EAST, plans=planned(**{who: "ff" * 32}))
        (found,) = disagreements(accused, log)
        assert (found.key, found.who) == (None, (who, "east"))
        assert found.what == (
            f"the plan of job {JOB[:12]} in the bundle of east names {who} by the key {'ff' * 8}, "
            f"which the log of {who} never had"
        )


def test_a_key_from_after_an_export_is_undetermined_until_a_newer_export_has_it():
    east, older = replace(EAST, plans=planned(LATE, west="ff" * 32)), replace(WEST, last_utc=LATE)
    (found,) = undetermined(east, older)
    assert (found.key, found.who, found.after_utc) == (None, "west", LATE)
    assert "its export ends before that job" in found.what
    newer = replace(WEST, keys=(KEYS["west"], "ff" * 32), leaves=(*WEST.leaves, leaf_hash(b"more")))
    for logs in ([east, older, newer], [newer, older, east]):
        assert compare(logs).agree
    assert disagreements(east, replace(older, cosigned_utc="2026-03-02T00:00:00Z"))


def test_an_institution_that_signed_two_logs_is_named():
    longer = replace(EAST, leaves=(*EAST.leaves, leaf_hash(b"more")))
    assert compare([longer, EAST]).agree
    forked = replace(EAST, leaves=(leaf_hash(b"other"), leaf_hash(b"more")))
    (found,) = disagreements(EAST, forked)
    assert (found.key, found.who) == (None, ("east",))
    assert "signed two logs: that of 1 entries is no beginning of that of 2" in found.what


def test_an_account_holds_what_a_log_says_of_rounds():
    log = sample_log()
    entries = [decode_entry(body) for body in log.entries]
    witnesses = tuple(WitnessReport(name, 1, 1, utc) for name, utc in (("a", LATE), ("b", EARLY)))
    report = replace(log.verify(), witnesses=witnesses, last_utc="2026-03-01T09:30:00Z")
    found = account_of(report, [log.public_key], log.leaves, entries, Evidence(), keeps_updates=True)
    assert (found.institution, found.keys) == ("hospital-a", (log.public_key.hex(),))
    assert set(found.rounds) == {entry.key for entry in entries if isinstance(entry, RoundEntry)}
    assert found.released == {
        entry.key: entry.ciphertext_sha256 for entry in entries if isinstance(entry, ReleaseEntry)
    }
    assert found.last_utc == report.last_utc, "the latest of all entries: clocks are set back as well"
    assert (found.cosigned_utc, found.until_utc) == (LATE, LATE)
    alone = account_of(log.verify(), [log.public_key], log.leaves, entries, Evidence(), keeps_updates=True)
    assert (alone.cosigned_utc, alone.until_utc) == (None, entries[-1].utc)
