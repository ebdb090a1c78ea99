"""Entries: one value, one encoding; nothing that must not be on record has a field."""

import json
import re
from pathlib import Path

import pytest

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError
from privacy.ledger.codec import decode_entry, encode_entry
from privacy.ledger.entry import AnyEntry
from privacy.ledger.verify import NEXT, LedgerFault
from tests.ledger_logs import rotated_log, sample_log

KINDS = {
    "policy", "reserve", "commit", "refund", "refuse", "release", "round", "review", "key", "job-approval", "self-test",
    "budget-change", "sub-cap", "admin", "auto-policy", "key-rotation",
}  # fmt: skip
SAMPLES = rotated_log().entries


def test_every_kind_survives_its_encoding_byte_for_byte() -> None:
    decoded: list[AnyEntry] = [decode_entry(body) for body in SAMPLES]
    assert [encode_entry(entry) for entry in decoded] == SAMPLES
    assert {entry.kind for entry in decoded} == KINDS


def test_no_field_can_hold_what_must_not_leave_a_silo() -> None:
    names = set(re.findall(r'"([a-z_0-9]+)":', b"".join(SAMPLES).decode()))
    banned = ("records", "batch", "loss", "norm", "mean", "accuracy", "rows", "minimum", "maximum")
    assert not [name for name in names for word in banned if word in name]


def altered(of: str, /, **changes: object) -> bytes:
    body = next(body for body in SAMPLES if json.loads(body)["kind"] == of)
    value = json.loads(body)
    for path, change in changes.items():
        *outer, last = path.split("__")
        inner = value
        for part in outer:
            inner = inner[part]
        if change is ...:
            del inner[last]
        else:
            inner[last] = change
    return canonical_json(value)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (altered("policy", kind="promise"), "kind"),
        (altered("policy", schema="cloister/ledger/v2"), "schema"),
        (altered("policy", schema=...), "missing or in another form"),
        (altered("policy", sequence=...), "missing or in another form"),
        (altered("policy", sequence=-1), "sequence"),
        (altered("policy", sequence="1"), "sequence"),
        (altered("policy", record_count=303), "record_count"),
        (altered("policy", utc="2026-03-01 09:00"), "utc"),
        (altered("policy", delta=0.5), "delta"),
        (altered("policy", filter="trust-me/v1"), "filter"),
        (altered("reserve", charge__rdp=[0.1]), "rdp: must be one multiple of 2\\^-32"),
        (altered("reserve", charge__event__count=10**9), "count"),
        (altered("reserve", charge__event__kind="os.system"), "charge.event"),
        (altered("reserve", mechanism__batch_size=32), "batch_size"),
        (altered("commit", outcome="lost"), "outcome"),
        (altered("commit", steps_executed=True), "steps_executed"),
        (altered("key", identity_key="AB" * 32), "identity_key"),
        (SAMPLES[0].replace(b'":"', b'": "', 1), "not in its canonical form"),
        (SAMPLES[0] + b" ", "not in its canonical form"),
        (b"[]", "ledger entry"),
        (b'{"a":NaN}', "canonical JSON"),
        (b"\xff\xfe", "canonical JSON"),
        (b'"' + b"x" * 70_000 + b'"', "more than 65536"),
        (b"[" * 60_000, "canonical JSON"),
    ],
)
def test_anything_else_is_refused_by_name(data: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        decode_entry(data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "frobnicate"}, "is of kind 'frobnicate', which this version of Cloister does not know"),
        ({"kind": "x" * 5000}, f"is of kind '{'x' * 80}', which this version of Cloister does not know"),
        (
            {"schema": "cloister/ledger/v2", "kind": "frobnicate"},
            "is of schema 'cloister/ledger/v2', which this version of Cloister does not know",
        ),
    ],
)
def test_what_a_later_version_may_have_written_is_left_to_it(changes: dict[str, object], said: str) -> None:
    log = sample_log()
    body = canonical_json({**json.loads(log.entries[-1]), **changes, "sequence": len(log.entries)})
    with pytest.raises(ProtocolError) as refused:
        decode_entry(body)
    assert refused.value.why == said
    log.entries.append(body)
    log.sign()
    with pytest.raises(LedgerFault) as signed:
        log.verify(log.leaves)
    assert (signed.value.sequence, signed.value.why) == (len(log.entries) - 1, f"ledger entry: {said}")
    assert signed.value.next_step == refused.value.next_step
    assert "with a newer version" in signed.value.next_step
    foreign = sample_log()
    with pytest.raises(LedgerFault) as replaced:
        foreign.changed(3, lambda _: body).verify(foreign.leaves)
    assert replaced.value.next_step == NEXT, "nobody signed for it: no version explains that"


def test_the_reference_names_every_kind_and_field() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/ledger-format.md").read_text()
    for body in SAMPLES:
        entry = json.loads(body)
        named = {entry["kind"], *_names(entry)}
        assert not [name for name in named if f"`{name}`" not in page and name not in EVENT_FIELDS]


EVENT_FIELDS = {"event", "count", "sampling_probability", "noise_multiplier"}


def test_a_refusal_from_before_purposes_were_asked_for_keeps_its_bytes() -> None:
    body = next(body for body in SAMPLES if json.loads(body)["kind"] == "refuse")
    value = json.loads(body)
    assert value["asked"].pop("purpose")
    older = canonical_json(value)
    assert encode_entry(decode_entry(older)) == older
    value["asked"]["purpose"] = None
    with pytest.raises(ProtocolError, match="missing or in another form"):
        decode_entry(canonical_json(value))


def _names(value: object) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return {*value, *(name for inner in value.values() for name in _names(inner))}
