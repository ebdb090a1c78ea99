"""Reviews of the ledger, and whether what they asked for is done in time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from privacy.ledger.entry import AnyEntry, ReviewEntry
from privacy.review import open_reviews


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
    closes: int | None  # the review whose follow-up this one settles
    settled: bool

    def overdue(self, today: date) -> bool:
        """Whether what it asks for should have been done before today."""
        return not self.settled and self.due is not None and date.fromisoformat(self.due) < today


def rows_of(entries: Iterable[AnyEntry]) -> tuple[ReviewRow, ...]:
    """The reviews of a log, oldest first. The one place that knows the fields of a `review` entry."""
    found = [entry for entry in entries if isinstance(entry, ReviewEntry)]
    still_open = {each.sequence for each in open_reviews((entry.sequence, entry.review) for entry in found)}
    return tuple(
        ReviewRow(
            sequence=entry.sequence,
            utc=entry.utc,
            auditor=entry.review.party,
            subject=f"{entry.review.subject} (entries {entry.review.first_sequence} to {entry.review.last_sequence})",
            finding=entry.review.finding,
            remark=entry.review.remark,
            follow_up=entry.review.follow_up,
            due=entry.review.due,
            closes=entry.review.closes,
            settled=entry.sequence not in still_open,
        )
        for entry in found
    )


def urgent_first(rows: Sequence[ReviewRow]) -> tuple[ReviewRow, ...]:
    """Those still open, by when they are due or were; then the rest, newest first."""
    newest = sorted(rows, key=lambda row: -row.sequence)
    still_open = sorted((row for row in newest if not row.settled), key=lambda row: row.due or "9999-99-99")
    return (*still_open, *(row for row in newest if row.settled))
