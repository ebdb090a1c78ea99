"""Bounded runs of the fuzzer, from sound samples; a crash is written beside them and fails."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.record import RoundRecord
from tests.bundles import made_up
from tests.ledger_logs import rotated_log
from tests.properties.test_decoders import handed
from tests.unit.test_federation_round_report import recorded

RUNS = {
    "entry": 20_000, "note": 20_000, "cosignature": 4_000, "log": 150, "plan": 6_000, "record": 4_000,
    "proposal": 10_000, "review": 10_000, "bundle": 1_500,
}  # fmt: skip
ROOT = Path(__file__).parents[2]


def samples(target: str, folder: Path) -> list[bytes]:
    log, (review, proposal, *_) = rotated_log(), [content for _, content in handed()]
    if target in ("plan", "record"):
        records = [recorded(suite, folder)[0].read_bytes() for suite in ("group", "multikey")]
        return records if target == "record" else [RoundRecord.decode(each).plan.encode() for each in records]
    if target == "bundle":
        return [bytes([place]) + content for place, content in enumerate(made_up(log).values())]
    found = {"entry": log.entries, "note": [note.encode() for note in log.notes]}
    found |= {"cosignature": [seconds.to_bytes(8, "big") for seconds in (1 << 30, 1 << 34, 1 << 38)]}
    found |= {"log": [bytes([number]) for number in range(100)]}
    return (found | {"proposal": [proposal], "review": [review]})[target]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("target", RUNS)
def test_a_decoder_ends_in_a_parse_or_an_error_of_ours(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, sample in enumerate(samples(target, tmp_path)):
        (corpus / str(number)).write_bytes(sample)
    words = [target, f"-atheris_runs={RUNS[target]}", "-seed=1", "-max_len=16384", "-timeout=20", str(corpus)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.decoders", *words], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
