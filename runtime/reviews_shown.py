"""How auditors' reviews read in the commands of both programs: as JSON facts, and in lines."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from privacy.review import OpenReview, Review
from runtime.ledger_store import Ledger
from runtime.reviews import follow_ups, reviews

Facts = Mapping[str, Any]


def recorded_line(review: Review) -> str:
    """That it is on record now, and what is due."""
    due = f"; due {review.due}: {review.follow_up}" if review.due else ""
    return f"review by {review.party}: {review.finding}{due}"


def review_facts(ledger: Ledger, today: date) -> list[dict[str, Any]]:
    """All reviews, oldest first, and whether what each asks for is open or overdue."""
    open_ = {one.sequence: one for one in follow_ups(ledger)}
    rows = list[dict[str, Any]]()
    for entry in reviews(ledger):
        still = open_.get(entry.sequence)
        said = {"entry": entry.sequence, "utc": entry.utc, **entry.review.model_dump()}
        rows.append({**said, "open": still is not None, "overdue": still is not None and still.overdue(today)})
    return rows


def reviews_lines(rows: Sequence[Facts]) -> list[str]:
    """Auditors' reviews, the open follow-ups marked."""
    return [line for row in rows for line in _review(row)] or ["no review yet"]


def _review(row: Facts) -> list[str]:
    lines = [
        f"entry {row['entry']}, {row['utc'][:10]}: {row['finding']}, by {row['party']}",
        f"    {row['subject']} (entries {row['first_sequence']} to {row['last_sequence']}): {row['remark']}",
    ]
    if row["due"] is not None:
        state = "OVERDUE since" if row["overdue"] else "due by" if row["open"] else "closed, was due by"
        lines.append(f"    {state} {row['due']}: {row['follow_up']}")
    return lines


def due_facts(open_: Iterable[OpenReview], today: date) -> list[dict[str, Any]]:
    """The open follow-ups, for a program's status."""
    return [
        {"entry": one.sequence, "due": one.due.isoformat(), "follow_up": one.follow_up, "overdue": one.overdue(today)}
        for one in open_
    ]


def due_lines(due: Iterable[Facts]) -> list[str]:
    """The open follow-ups in a program's status, a line each."""
    return [
        f"review   entry {each['entry']}, {'OVERDUE since' if each['overdue'] else 'due by'} {each['due']}:"
        f" {each['follow_up']}"
        for each in due
    ]
