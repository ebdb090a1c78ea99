"""When entries say they were written: in the order in which they stand, but for a clock that is set right."""

from datetime import datetime, timedelta
from typing import Final

from privacy.errors import VerificationError

CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""An entry may say that it is this much older than the one before it, no more."""


def check_order(before_utc: str, utc: str) -> None:
    """An entry of `utc` may follow one of `before_utc`. Raises VerificationError; both are entries' own strings."""
    if instant(utc) < instant(before_utc) - CLOCK_TOLERANCE:
        why = f"{utc} is stated, but the entry before it is of {before_utc}"
        raise VerificationError("utc", why, "Compare both with the signed checkpoints that others hold.")


def instant(utc: str) -> datetime:
    """The moment that an entry states. Raises VerificationError for what is none."""
    try:
        return datetime.strptime(utc, "%Y-%m-%dT%H:%M:%S%z")
    except ValueError as error:
        raise VerificationError("utc", f"{utc} is no time", "Entries are written in UTC, to the second.") from error
