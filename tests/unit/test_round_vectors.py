"""Whole rounds as files: every operation gives what it says there, and what must be refused is, where it says."""

import hashlib
import json
from base64 import b64decode
from pathlib import Path

import pytest

from privacy.errors import CloisterError
from tests import reference_multikey
from tests.vectors import shares_reference
from tests.vectors.replay import Replay

FOLDER = Path(__file__).parents[1] / "vectors" / "v1"
ROUNDS = {
    name: json.loads((FOLDER / f"round-{name}.json").read_text(encoding="utf-8")) for name in ("group", "multikey")
}
CASES = [(suite, case) for suite, found in ROUNDS.items() for case in found["negatives"]]


@pytest.mark.parametrize("suite", ROUNDS)
def test_every_operation_gives_what_the_file_says(suite):
    replay = Replay()
    for operation in ROUNDS[suite]["operations"]:
        assert replay.run(operation) == operation["gives"], operation["op"]


@pytest.mark.parametrize(("suite", "case"), CASES, ids=lambda value: value if isinstance(value, str) else value["name"])
def test_what_must_be_refused_is(suite, case):
    replay, last = Replay(), case["refused_by"]
    operations = ROUNDS[suite]["operations"]
    for number, operation in enumerate(operations[:last]):
        replay.run({**operation, **case["changes"].get(str(number), {})})
    with pytest.raises(CloisterError) as refusal:
        replay.run({**operations[last], **case["changes"].get(str(last), {})})
    assert case["refused"] in str(refusal.value)


def test_names_say_which_case_it_is():
    for found in ROUNDS.values():
        names = [case["name"] for case in found["negatives"]]
        assert len(names) == len(set(names)) > 30


def digest(label, *parts):
    """H of docs/reference/protocol.md, written again."""
    data = b"".join(len(part).to_bytes(8, "big") + part for part in (label.encode(), *parts))
    return hashlib.sha256(data)


def spoken(entries):
    return [part for each in entries for part in (each["body"].encode(), bytes.fromhex(each["signature"]))]


@pytest.mark.parametrize("suite", ROUNDS)
def test_digests_are_those_of_the_specification(suite):
    found = {operation["op"]: operation for operation in ROUNDS[suite]["operations"]}
    plan = digest("cloister/v1/plan", found["plan"]["plan"].encode())
    assert plan.hexdigest() == found["plan"]["gives"]["digest"]
    names = json.dumps(found["announce"]["participants"], separators=(",", ":")).encode()
    number, adapter = (1).to_bytes(8, "big"), bytes.fromhex(found["announce"]["adapter"])
    ctx = digest("cloister/v1/round", plan.digest(), number, adapter, names)
    assert ctx.hexdigest() == found["announce"]["gives"]["ctx"]
    tau1 = digest("cloister/v1/committed", *spoken([found["commit"]["commit"], *found["commit"]["headers"]]))
    assert tau1.hexdigest() == found["commit"]["gives"]["tau1"]
    tau2 = digest("cloister/v1/transcript", tau1.digest(), *spoken(found["fingerprints"]["fingerprints"]))
    assert tau2.hexdigest() == found["fingerprints"]["gives"]["tau2"]
    if suite == "multikey":
        bodies = [join["body"].encode() for join in found["round roll"]["joins"]]
        assert digest("cloister/v1/round-roll", *bodies).hexdigest() == found["round roll"]["gives"]["digest"]
        for operation in ROUNDS[suite]["operations"]:
            if operation["op"] == "update":
                stated = json.loads(operation["header"]["body"])["mails"]
                assert digest("cloister/v1/mails", bytes.fromhex(operation["mails"])).hexdigest() == stated


def test_a_round_opens_by_the_slow_reference_as_well():
    """Interpolation and opening in plain integers, from the plaintext of the releases on."""
    replay = Replay()
    operations = ROUNDS["multikey"]["operations"]
    for operation in operations:
        replay.run(operation)
    points = [replay.at.ctx.participants.index(silo) + 1 for silo in replay.at.sums]
    shares = [share.tolist() for share in replay.at.sums.values()]
    key = []
    for column in zip(*shares[:3], strict=True):
        value = shares_reference.at(0, list(zip(points[:3], column, strict=True)))
        key.append(value - shares_reference.P if value > shares_reference.P // 2 else value)
    plan = json.loads(operations[0]["plan"])
    values = plan["task"]["values"]
    suite = reference_multikey.Suite(plan["parameters"], len(plan["cohort"]["roster"]), plan["grid"]["bits"], values)
    found = {operation["op"]: operation for operation in operations}
    (chunk,) = (b64decode(each) for each in found["sum"]["chunks"])
    noise, sums = suite.open(replay.at.ctx.digest(), key, decoded(suite, chunk))
    assert sums == found["open"]["gives"]["sums"]
    assert max(map(abs, noise)) <= reference_multikey.bound(4)


def decoded(suite, data):
    """The blocks of an update's bytes: rows of 31 bits a residue."""
    blocks, start = [], 0
    for width in suite.widths:
        rows = []
        for _ in suite.primes:
            row = int.from_bytes(data[start : start + 31 * width // 8], "little")
            rows.append([row >> (31 * j) & (2**31 - 1) for j in range(width)])
            start += 31 * width // 8
        blocks.append(rows)
    assert start == len(data)
    return blocks
