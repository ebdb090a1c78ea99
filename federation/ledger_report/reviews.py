"""Reviews of the ledger, and whether what they asked for is done in time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from privacy.ledger.entry import AnyEntry, ReviewEntry


@dataclass(frozen=True)
class ReviewRow:
    """One review. `settled`: it asks for nothing, or a later review closes it."""

    sequence: int
    utc: str
    auditor: str
    subject: str
    finding: str
    remark: str
    follow_up: str | None
    due: str | None  # a date, YYYY-MM-DD
    settled: bool

    def overdue(self, today: date) -> bool:
        """Whether what it asks for should have been done before today."""
        return not self.settled and self.due is not None and date.fromisoformat(self.due) < today


def rows_of(entries: Iterable[AnyEntry]) -> tuple[ReviewRow, ...]:
    """The reviews of a log, oldest first. The one place that knows the fields of a `review` entry."""
    return tuple(
        ReviewRow(
            sequence=entry.sequence,
            utc=entry.utc,
            auditor=entry.actor,
            subject=f"{entry.subject} (entries {entry.first_sequence} to {entry.last_sequence})",
            finding=entry.finding,
            remark="",
            follow_up=None,
            due=None,
            settled=True,
        )
        for entry in entries
        if isinstance(entry, ReviewEntry)
    )


def urgent_first(rows: Sequence[ReviewRow], today: date) -> tuple[ReviewRow, ...]:
    """Overdue ones, by how long; then those still open, by when they are due; then the rest, newest first."""
    newest = sorted(rows, key=lambda row: -row.sequence)
    return tuple(sorted(newest, key=lambda row: (row.settled, not row.overdue(today), row.due or "9999-99-99")))
