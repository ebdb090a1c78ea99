"""What `cloister round verify` says of a checked record."""

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from federation.cli import build
from federation.round_report import _chunks, _facts, lines
from privacy.ckks.layout import Layout
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import MultikeyParams
from privacy.plan import JobPlan
from privacy.record import RecordVerdict, RoundRecord
from privacy.transcript import check_certificate, check_commit, check_fingerprints, group_headers
from runtime.console import run
from tests.parties import KEY_COMMITMENT, Cohort, transcript_of

SILOS = ["a", "b", "c"]


@pytest.fixture
def verdict():
    """Of a round of the suite ckks-group."""
    cohort = Cohort(*SILOS)
    headers = [cohort.header(name) for name in SILOS]
    signed = cohort.commit(headers, SILOS)
    check = group_headers(cohort.plan, cohort.ctx, KEY_COMMITMENT)
    commit = check_commit(cohort.plan, cohort.ctx, check, signed, headers)
    prints = [cohort.fingerprint(name, commit.digest) for name in SILOS]
    transcript = check_fingerprints(cohort.plan, cohort.ctx, commit, prints)
    signers = [cohort.consent(name, transcript_of(signed, headers, prints)) for name in SILOS[:2]]
    consents = check_certificate(cohort.plan, cohort.ctx, transcript.digest, signers)
    return RecordVerdict(cohort.plan, tuple(SILOS), transcript, consents, (), {})


def keyed(verdict, *released):
    """As if the round had had the suite ckks-multikey."""
    fields = verdict.plan.model_dump(mode="json") | {"suite": "ckks-multikey", "parameters": "small"}
    fields["cohort"] |= {"minimum": 3, "tolerated_colluders": 1}
    return replace(verdict, plan=JobPlan.model_validate(fields), released=released)


def test_with_a_shared_key_nothing_is_said_of_shares(verdict):
    facts = _facts(verdict, sum_checked=False)
    assert (facts["released"], facts["releases_needed"]) == ([], 0)
    text = "\n".join(lines(facts))
    assert "shares" not in text
    assert "consents   a, b (2 were needed)" in text
    assert "not the sum itself, for it is not at hand" in text
    assert "the sum is that of its members' updates" in "\n".join(lines(_facts(verdict, sum_checked=True)))


@pytest.mark.parametrize(
    ("released", "said"),
    [
        (("a", "b", "c"), "shares     3 sums released, of the 3 that open the sum: a, b, c"),
        (("b",), "shares     1 sums released, of the 3 that open the sum: b"),
        ((), "shares     0 sums released, of the 3 that open the sum: nobody"),
    ],
)
def test_with_a_key_each_it_says_how_many_sums_of_shares_were_released_of_how_many_it_takes(verdict, released, said):
    facts = _facts(keyed(verdict, *released), sum_checked=False)
    assert facts["released"] == list(released)
    assert facts["releases_needed"] == 3
    assert said in list(lines(facts))


@pytest.mark.parametrize("layout", [Layout(600_000), MultikeyLayout(700_000, MultikeyParams("small", 4, 16))])
def test_a_sum_of_several_chunks_is_read_chunk_by_chunk(layout, tmp_path):
    sizes = [layout.chunk_bytes(index) for index in range(layout.chunks)]
    assert len(sizes) == 3
    file = tmp_path / "sum"
    file.write_bytes(bytes(sum(sizes)))
    assert [len(chunk) for chunk in _chunks(file, layout)] == sizes
    file.write_bytes(bytes(sum(sizes) + 5))
    assert [len(chunk) for chunk in _chunks(file, layout)] == [*sizes[:-1], sizes[-1] + 5]


def recorded(suite, folder):
    """The round of the test vectors, as the aggregator would export it, and the file of its sum."""
    path = Path(__file__).parents[1] / "vectors" / "v1" / f"round-{suite}.json"
    operations = json.loads(path.read_text(encoding="utf-8"))["operations"]
    found = {each["op"]: each for each in operations}
    releases = [each for each in operations if each["op"] == "release"]
    record = {
        "version": "cloister/v1/round-record",
        "plan": found["plan"]["plan"],
        "job_joins": found["job roll"]["joins"],
        "deal": found["deal"]["deal"] if "deal" in found else None,
        "round": found["announce"]["round"],
        "adapter_digest": found["announce"]["adapter"],
        "participants": found["announce"]["participants"],
        "round_joins": found["round roll" if "round roll" in found else "joins"]["joins"],
        "commit": found["commit"]["commit"],
        "headers": found["commit"]["headers"],
        "fingerprints": found["fingerprints"]["fingerprints"],
        "consents": found["certificate"]["consents"],
        "releases": [each["release"] for each in releases],
        "applied": found["applied"]["applied"],
    }
    transcript, sums = folder / "round.json", folder / "sum"
    transcript.write_bytes(RoundRecord.model_validate(record).encode())
    sums.write_bytes(b"".join(b64decode(chunk) for chunk in found["sum"]["chunks"]))
    return transcript, sums


@pytest.mark.parametrize("suite", ["group", "multikey"])
def test_a_real_round_is_verified_with_its_sum_and_by_digests_alone(suite, tmp_path, capsys):
    def verify(*words):
        code = run(build("round"), ["round", "verify", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out + told.err

    transcript, sums = recorded(suite, tmp_path)
    code, out = verify(transcript)
    assert (code, "not the sum itself, for it is not at hand (--sum)" in out) == (0, True)
    assert ("4 sums released, of the 3 that open the sum" in out) == (suite == "multikey")
    code, out = verify(transcript, "--sum", sums)
    assert (code, "the sum is that of its members' updates" in out) == (0, True)
    data = bytearray(sums.read_bytes())
    data[40] ^= 1
    sums.write_bytes(data)
    code, out = verify(transcript, "--sum", sums)
    assert (code, "H(C) differs" in out) == (6, True)
    sums.write_bytes(data + b"surplus!")
    code, out = verify(transcript, "--sum", sums)
    assert (code, "is oversized" in out) == (6, True)
    field = "releases" if suite == "multikey" else "consents"
    record = json.loads(transcript.read_text(encoding="utf-8"))
    record[field][0]["signature"] = record[field][1]["signature"]
    transcript.write_bytes(RoundRecord.model_validate(record).encode())
    code, out = verify(transcript)
    assert (code, "the signature is not" in out) == (6, True)
