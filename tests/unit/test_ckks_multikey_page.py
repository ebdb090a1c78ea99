"""The figures on docs/reference/ckks-multikey.md are those of the code."""

import re
from pathlib import Path

import pytest

from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import DEGREES, MultikeyParams
from privacy.ckks.shares import COEFFICIENT_BYTES
from privacy.mail import MailKey, seal_mail

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "ckks-multikey.md").read_text(encoding="utf-8")
TAG_BYTES = 16


@pytest.fixture(scope="module")
def mail_overhead() -> int:
    key = MailKey.generate().public_bytes
    return len(seal_mail(b"", key, binding=b"", sender="a", receiver="b"))


def test_bytes_a_value(mail_overhead: int) -> None:
    rows = re.findall(r"^\| ([\d,]{7,}) \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for values, set_name, cells in rows:
        for participants, cell in zip((4, 10, 32, 100), cells.split(" | "), strict=True):
            count = int(values.replace(",", ""))
            params = MultikeyParams.for_update(count, participants, 16)
            ciphertext = MultikeyLayout(count, params).residue_bytes
            share = params.degree * COEFFICIENT_BYTES
            mails = participants * (mail_overhead + share)
            release = share + TAG_BYTES + participants * (mail_overhead + 32)
            told = tuple(float(number) for number in cell.split(", "))
            assert params.set_name == set_name
            assert told == pytest.approx((ciphertext / count, (ciphertext + mails + release) / count), abs=0.0051)


def test_primes_fields_and_bits() -> None:
    for set_name, degree in DEGREES.items():
        params = MultikeyParams(set_name, 4, 16)
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{set_name}` | {degree} |"))
        if len(params.primes) < 10:
            assert ", ".join(map(str, params.primes)) in row
        fields = ", ".join(str(MultikeyParams(set_name, n, 16).fields) for n in (4, 16, 32, 100))
        assert fields in PAGE
    assert f"the noise bound is {MultikeyParams.bound(100):,}" in PAGE
