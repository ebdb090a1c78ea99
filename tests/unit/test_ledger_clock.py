"""Entries' times: a clock may be set right by an hour, and what is no time is named."""

import pytest

from privacy.errors import VerificationError
from privacy.ledger.clock import check_order

NINE = "2026-03-01T09:00:00Z"


@pytest.mark.parametrize("utc", [NINE, "2026-03-01T09:00:01Z", "2026-03-01T08:00:00Z", "9998-12-31T23:59:59Z"])
def test_times_that_may_follow(utc):
    assert check_order(NINE, utc) == max(NINE, utc)
    assert check_order(None, utc) == utc


@pytest.mark.parametrize("utc", ["2026-03-01T07:59:59Z", "2025-12-31T23:59:59Z", "2000-01-01T00:00:00Z"])
def test_times_that_may_not(utc):
    with pytest.raises(VerificationError, match=f"{utc} is stated, but an entry before it is of {NINE}"):
        check_order(NINE, utc)


@pytest.mark.parametrize(
    "utc",
    [
        "2026-02-30T09:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T09:60:00Z",
        "2026-03-01T09:00:60Z",
        "0000-03-01T09:00:00Z",
        "٢٠٢٦-03-01T09:00:00Z",
        "2026-03-01 09:00:00Z",
    ],
)
def test_what_is_no_time(utc):
    with pytest.raises(VerificationError, match="is no time"):
        check_order("2000-01-01T00:00:00Z", utc)


@pytest.mark.parametrize("utc", ["0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "9999-01-01T00:00:00Z"])
@pytest.mark.parametrize("before", [None, NINE, "0001-01-01T00:30:00Z"])
def test_times_that_no_clock_shows(before, utc):
    """And from which no hour could be taken."""
    with pytest.raises(VerificationError, match=f"{utc} is not in the years 2000 to 9998"):
        check_order(before, utc)
