"""Entries are read quickly exactly as they are read slowly: the same values, the same refusals, whatever the bytes."""

import json
import re
from typing import Annotated, Any, Literal, get_args

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from privacy.accounting import round_event
from privacy.budget import BudgetPolicy, first_budget
from privacy.errors import ProtocolError
from privacy.fields import NAME, Name, Positive, PositiveReal, Strict, Text
from privacy.ledger import runs
from privacy.ledger.codec import decode_any, decode_entry, encode_any, encode_entry
from privacy.ledger.entry import AnyEntry
from privacy.ledger.forms import Form, read_plain
from privacy.ledger.parts import Charge, NonNegative, mechanism_of
from privacy.ledger.runs import NotPlain
from privacy.ledger.scalars import scalar_of
from privacy.mechanism import Metrics
from tests.ledger_logs import DP, commit_entry, reserve_entry, rotated_log
from tests.properties.test_decoders import INTERESTING, changed

SHARED = DP.model_copy(update={"steps_per_round": 1, "noise": "shared", "noise_shares": 3})
BOUNDED = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def samples() -> list[bytes]:
    """Every kind; besides, the other mechanism and an event of several parts."""
    state = first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))
    both = DP.model_copy(update={"metrics": Metrics(noise_multiplier=20.0, loss_bound=4.0, most_units=50)})
    priced = Charge.of(round_event(both, both.steps_per_round), 1e-3)
    composed = reserve_entry(7, state).model_copy(update={"mechanism": mechanism_of(both), "charge": priced})
    more = [reserve_entry(5, state, SHARED), commit_entry(6, state), composed]
    return [*rotated_log().entries, *map(encode_entry, more)]


SAMPLES = samples()
KINDS = {json.loads(body)["kind"]: body for body in SAMPLES}
HOT = ("reserve", "commit", "release", "round", "refund", "refuse")


def decoded(decode, data: bytes) -> AnyEntry | str:
    """What these bytes mean, or what is wrong with them."""
    try:
        return decode(data)
    except ProtocolError as error:
        return str(error)


def same(data: bytes) -> None:
    """Both ways decode these bytes alike, or refuse them for the same reason."""
    slow, quick = decoded(decode_any, data), decoded(decode_entry, data)
    if isinstance(slow, str):
        assert (quick, read_plain(data)) == (slow, None)
        return
    assert quick == slow
    assert exactly(quick) == exactly(slow)
    assert (hash(quick), quick.model_fields_set) == (hash(slow), slow.model_fields_set)
    assert encode_entry(quick) == encode_any(quick) == data


def exactly(value: Any) -> Any:
    """A value with the types of all that is in it: 1, 1.0 and True are equal."""
    if isinstance(value, Strict):
        return type(value), {name: exactly(inner) for name, inner in value.__dict__.items()}
    if isinstance(value, tuple):
        return tuple(map(exactly, value))
    return type(value), value


def test_every_kind_is_read_quickly() -> None:
    for body in SAMPLES:
        same(body)
        assert read_plain(body) is not None


@given(st.data())
@BOUNDED
def test_changed_bytes(data):
    same(data.draw(changed(data.draw(st.sampled_from(SAMPLES)))))


@pytest.mark.parametrize("kind", HOT)
def test_any_byte_of_an_entry_that_is_another(kind):
    """Outside of the Renyi vector, every place, with bytes that mean something in JSON or in an expression."""
    body = KINDS[kind]
    begin = body.find(b'"rdp":[')
    vector = range(begin, body.find(b"]", begin)) if begin > 0 else ()
    for place in range(len(body)):
        if place not in vector:
            for other in (b'"', b"\\", b"0"):
                same(body[:place] + other + body[place + 1 :])


NUMBERS = b"""
    1 6 00 01 -0 +5 5. .5 1_0 1.0 0.0 -0.0 -1.5 0.1 0.10 1.50 0.30000000000000004 0.3000000000000000444 5e-324
    0.29999999999999998 0.00001 0.000001 1e-6 1e-7 1e-05 1e3 1E3 1e16 1e21 1e+21 10000000000000000 123456789012345678
    999999999 2147483648 2147483649 1000000 1000001 9007199254740991 9007199254740992 9007199254740993 NaN Infinity
""".split()
TEXTS = [
    *(
        "é" * 400,
        "é" * 401,
        "x" * 400,
        "x" * 401,
        "0" * 64,
        "A" * 64,
        "a" * 63,
        "a" * 64,
        "-a",
        "a b",
        "A",
        "\x1f",
        "\x7f",
    ),
    *(
        "\u2028",
        "\ufeff",
        "\U0001f600",
        "٣",
        "٢٠٢٦-03-01T09:00:00Z",
        "2026-13-01T09:00:00Z",
        "\\u0041",
        '\\"',
        "\\/",
        "\\b",
    ),
    *("\\u001f", "\\n"),
]
WORDS = [b" ", b"\n", b"true", b"false", b"TRUE", b'{"a":1}', b'["a"]', b'"\xed\xa0\x80"']
NEEDLES = [*INTERESTING, *NUMBERS, *WORDS, *(f'"{text}"'.encode() for text in TEXTS)]
SCALAR = re.compile(rb'(?<=[\[:,])(?:"[^"]*"(?!:)|[-0-9.a-z]+)')


@pytest.mark.parametrize("kind", KINDS)
def test_every_scalar_with_another_text(kind):
    """The rest stays sound, so that each field's own rules are reached, and the forms' expressions tried."""
    body = KINDS[kind]
    begin = body.find(b'"rdp":[')
    for place in SCALAR.finditer(body):
        if not begin < place.start() < begin + 1000 or begin < 0:
            for needle in NEEDLES:
                same(body[: place.start()] + needle + body[place.end() :])


REALS = st.one_of(
    st.floats(0, 1e6), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**54), 2**54).map(float)
)


@given(REALS, st.sampled_from(["spent_epsilon", "filter_order"]))
@BOUNDED
def test_reals(real, name):
    value = json.loads(KINDS["commit"])
    value["balance"][name] = real
    same(rfc8785.dumps(value))
    same(KINDS["commit"].replace(b'"filter_order":6', b'"filter_order":' + repr(real).encode()))


@given(st.text(max_size=12), st.sampled_from(["actor", "purpose", "software"]))
@BOUNDED
def test_texts(text, name):
    value = json.loads(KINDS["reserve"])
    value[name] = text
    same(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode())
    same(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


@given(st.one_of(st.from_regex(NAME, fullmatch=True), st.text("ab-", max_size=66)))
@BOUNDED
def test_names(name):
    value = json.loads(KINDS["round"])
    same(rfc8785.dumps(value | {"institution": name}))
    same(rfc8785.dumps(value | {"members": [name, "hospital-b"]}))


@given(st.data())
@BOUNDED
def test_members_left_out_doubled_moved_renamed_or_added(data):
    value = json.loads(data.draw(st.sampled_from(SAMPLES)))
    inner = data.draw(st.sampled_from([value, *(each for each in value.values() if isinstance(each, dict))]))
    members = list(inner.items())
    place = data.draw(st.integers(0, len(members) - 1))
    match data.draw(st.sampled_from(["out", "doubled", "moved", "renamed", "added"])):
        case "out":
            del members[place]
        case "doubled":
            members.insert(place, members[place])
        case "moved":
            members.insert(data.draw(st.integers(0, len(members) - 1)), members.pop(place))
        case "renamed":
            members[place] = (data.draw(st.sampled_from(["charge", "kind", "a", "utc"])), members[place][1])
        case _:
            members.insert(place + 1, (members[place][0] + "x", 1))
    same(text_of(value, inner, members))


def text_of(value: object, inner: object, members: list[tuple[str, object]]) -> bytes:
    """JSON of a value, with an object in it given by its members, in this order."""
    if not isinstance(value, dict):
        return rfc8785.dumps(value)
    shown = members if value is inner else sorted(value.items())
    return b"{" + b",".join(rfc8785.dumps(n) + b":" + text_of(each, inner, members) for n, each in shown) + b"}"


def test_a_member_whose_text_names_the_next_one_is_read_the_general_way() -> None:
    """A run is taken to end where the next member's name stands first."""
    body = KINDS["round"]
    start, end = body.index(b'"members":') + 10, body.index(b',"outcome"')
    for members in (b'["a","outcome":"b"]', b'[",\\"outcome\\":"]', b'["a"],"outcome":["b"]', b""):
        same(body[:start] + members + body[end:])


def test_a_rule_about_several_fields_is_kept() -> None:
    body = KINDS["refuse"]
    for decision in (b"steward", b"protocol"):
        other = body.replace(b'"decision":"budget"', b'"decision":"' + decision + b'"')
        assert other != body
        same(other)
        same(other.replace(b'"over-cap"', b'"declined"'))


def test_long_runs_are_not_remembered() -> None:
    body = KINDS["round"]
    start, end = body.index(b'"members":') + 10, body.index(b',"outcome"')
    names = rfc8785.dumps([f"hospital-{number:050}" for number in range(200)])
    assert len(names) > runs.LONGEST
    long = body[:start] + names + body[end:]
    same(long)
    assert read_plain(long) is None


def test_what_repeats_is_one_object() -> None:
    reserve, commit = (next(body for body in SAMPLES if b'"kind":"' + kind in body) for kind in (b"reserve", b"commit"))
    assert read_plain(reserve).mechanism is read_plain(reserve).mechanism
    assert read_plain(reserve).charge is read_plain(commit).charge
    assert read_plain(reserve).mechanism is read_plain(commit).mechanism


class Pair(Strict):
    low: NonNegative | None
    high: PositiveReal
    steps: Positive = 1


class Several(Strict):
    pairs: tuple[Pair, ...] = Field(strict=False)
    then: bool


SEVERAL = Form(Several)
ONE = '{"high":0.5,"low":0,"steps":1}'


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        (Form(Pair), '{"high":0.5,"low":0,"steps":1}', Pair(low=0.0, high=0.5)),
        (Form(Pair), '{"high":6,"low":null,"steps":12}', Pair(low=None, high=6.0, steps=12)),
        (Form(Pair), '{"high":0,"low":0,"steps":1}', None),
        (Form(Pair), '{"high":0.50,"low":0,"steps":1}', None),
        (Form(Pair), '{"high":6.0,"low":0,"steps":1}', None),
        (Form(Pair), '{"high":0.1000000000000000055,"low":0,"steps":1}', None),
        (Form(Pair), '{"high":-1,"low":0,"steps":1}', None),
        (Form(Pair), '{"high":1e3,"low":0,"steps":1}', None),
        (Form(Pair), '{"high":0.5,"low":0,"steps":1}\n', None),
        (Form(Pair), '{"high":0.5,"low":0,"steps":9007199254740993}', None),
        (Form(Pair), '{"high":0.5,"low":0}', None),
        (SEVERAL, f'{{"pairs":[{ONE}],"then":true}}', Several(pairs=(Pair(low=0.0, high=0.5),), then=True)),
        (SEVERAL, f'{{"pairs":[{ONE} ],"then":true}}', None),
        (SEVERAL, '{"pairs":[{"high":0.5,"low":0}],"then":true}', None),
        (SEVERAL, f'{{"pairs":[{ONE}],"then":1}}', None),
        (SEVERAL, f'{{"pairs":[{ONE}]}}', None),
    ],
)
def test_a_form_reads_canonical_texts_alone(form, text, found):
    if found is None:
        with pytest.raises(NotPlain):
            form.read(text)
    else:
        assert exactly(form.read(text)) == exactly(found)


@pytest.mark.parametrize(
    "annotation",
    [
        bytes, Literal[True], Literal["a b"], Literal[1, "a"], Literal[-1], Annotated[int, "unknown"], int | str, Pair,
        Name | Text | None, Annotated[float, "unknown"], Annotated[str, "unknown"], tuple[Name, ...],
        Annotated[Name | None, "unknown"], Annotated[bool, "unknown"],
    ],
)  # fmt: skip
def test_types_that_are_not_known_are_left_to_the_general_way(annotation):
    assert scalar_of(annotation, ()) is None


def test_every_kind_of_entry_is_in_the_samples() -> None:
    models = get_args(get_args(AnyEntry)[0])
    assert {model.model_fields["kind"].default for model in models} == set(KINDS)
