"""UTC moments as text and back; nothing in this package reads a clock."""

from datetime import UTC, datetime

from privacy.errors import InternalError, ProtocolError

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def utc(moment: datetime) -> datetime:
    """The moment in UTC, whole seconds. Raises InternalError for one without a time zone."""
    if moment.tzinfo is None:
        raise InternalError("a moment", "has no time zone", "Report this; nothing was done.")
    return moment.astimezone(UTC).replace(microsecond=0)


def utc_text(moment: datetime) -> str:
    """`2026-01-31T12:00:00Z`."""
    return utc(moment).strftime(_FORM)


def parse_utc(text: str) -> datetime:
    """The inverse of `utc_text`. Raises ProtocolError for any other form."""
    try:
        moment = datetime.strptime(text, _FORM).replace(tzinfo=UTC)
    except ValueError as error:
        raise ProtocolError(
            f"time {text[:40]!r}", "is not like 2026-01-31T12:00:00Z", "The sender must write UTC."
        ) from error
    if utc_text(moment) != text:
        raise ProtocolError(f"time {text[:40]!r}", "is not like 2026-01-31T12:00:00Z", "The sender must write UTC.")
    return moment
