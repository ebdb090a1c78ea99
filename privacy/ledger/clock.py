"""When entries say they were written: in the order in which they stand, but for a clock that is set right.

Once for the whole log, not once an entry: none is much older than the latest of all before it.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final

from privacy.errors import VerificationError

CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""An entry may say that it is this much older than any before it, no more."""

FIRST_UTC: Final = datetime(2000, 1, 1, tzinfo=UTC)
LAST_UTC: Final = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
"""No entry and no cosignature is of an earlier or a later time: whole years, of which an hour from any time is still a
`datetime`.
"""

_FORM = "Entries are written in UTC, to the second."


def check_order(latest_utc: str | None, utc: str) -> str:
    """An entry of `utc` may follow others, the latest of `latest_utc`; None: there are none. Returns the latest, this
    one counted. Raises VerificationError; both are entries' own strings.

    Entries' strings are of one length and one form, so that later ones sort later.
    """
    _parts(utc)
    if latest_utc is None or utc >= latest_utc:
        return utc
    if instant(utc) < instant(latest_utc) - CLOCK_TOLERANCE:
        why = f"{utc} is stated, but an entry before it is of {latest_utc}"
        raise VerificationError("utc", why, "Compare both with the signed checkpoints that others hold.")
    return latest_utc


def is_ahead(utc: str, now: datetime) -> bool:
    """Whether an entry of `utc` states a time to come: with a cosignature from before it no log verifies."""
    return instant(utc) > now + CLOCK_TOLERANCE


@lru_cache(256)
def instant(utc: str) -> datetime:
    """The moment that an entry states. Raises VerificationError for what is none, or not from FIRST_UTC to LAST_UTC."""
    return datetime.combine(*_parts(utc))


def _parts(utc: str) -> tuple[date, time]:
    """Of the moment: looked up more quickly than that is made."""
    try:
        day, time_of_day = _date(utc[:10]), _time(utc[10:])
    except ValueError as error:
        raise VerificationError("utc", f"{utc} is no time", _FORM) from error
    if not FIRST_UTC.year <= day.year <= LAST_UTC.year:
        raise VerificationError("utc", f"{utc} is not in the years {FIRST_UTC.year} to {LAST_UTC.year}", _FORM)
    return day, time_of_day


@lru_cache(256)
def _date(text: str) -> date:
    """Days and times of day repeat. Raises ValueError, also for other forms that ISO 8601 has."""
    found = date.fromisoformat(text)
    if found.isoformat() != text:
        raise ValueError(text)
    return found


@lru_cache(4096)
def _time(text: str) -> time:
    found = time.fromisoformat(text)
    if f"T{found.isoformat()}" != text.replace("Z", "+00:00"):  # 24:00:00 as well
        raise ValueError(text)
    return found
