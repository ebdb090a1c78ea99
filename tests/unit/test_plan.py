"""A plan is canonical bytes: one value, one encoding, and every rule refused by name."""

import pytest

from privacy.canonical import canonical_json, digest
from privacy.errors import ProtocolError
from privacy.plan import JobPlan
from tests.parties import Cohort

COHORT = Cohort("a", "b", "c")
FIELDS = COHORT.plan_fields("a", "b", "c")


def test_decode_then_encode_is_the_identity() -> None:
    data = COHORT.plan.encode()
    assert JobPlan.decode(data) == COHORT.plan
    assert JobPlan.decode(data).encode() == data
    assert JobPlan.decode(data).digest() == COHORT.plan.digest()


def test_white_space_is_another_encoding_and_refused() -> None:
    with pytest.raises(ProtocolError, match="not in its canonical form"):
        JobPlan.decode(b" " + COHORT.plan.encode())
    with pytest.raises(ProtocolError, match="not canonical JSON"):
        JobPlan.decode(b"{" * 100_000)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"surprise": 1}, "surprise"),
        ({"rounds": "2"}, "rounds"),
        ({"rounds": 5}, "job plan: round_attempts must be at least rounds"),
        ({"suite": "ckks-nothing"}, "suite"),
        ({"name": "Not A Name"}, "job plan: name: is not a name: 1 to 63 of a-z"),
        ({"grid": {"bits": 17}}, "grid.bits"),
        ({"aggregator": FIELDS["cohort"]["roster"][0]}, "a party of its own"),
        ({"task": {"kind": "rehearsal", "values": 10, "update_range": 1e-60}}, "update_range"),
        ({"task": {"kind": "rehearsal", "values": 10**10, "update_range": 1.0}}, "values"),
        ({"cohort": {**FIELDS["cohort"], "minimum": 4}}, "cohort.minimum is 4"),
        ({"cohort": {**FIELDS["cohort"], "tolerated_colluders": 2}}, "it must be 4-3"),
        ({"cohort": {**FIELDS["cohort"], "roster": FIELDS["cohort"]["roster"][::-1]}}, "sorted by name"),
        ({"dp": {"clip_l2": 1.0, "noise_multiplier": 1.0, "sampling_rate": 0.5, "steps_per_round": 1,
                 "expected_batch_size": 10.0, "unit": "record", "delta": 1e-3}}, "rehearsal touches no data"),
    ],
)  # fmt: skip
def test_rules(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        JobPlan.decode(canonical_json({**FIELDS, **change}))


def test_digest_parts_cannot_run_into_each_other() -> None:
    assert digest("l", b"ab", b"c") != digest("l", b"a", b"bc")
    assert digest("l", b"") != digest("l")
