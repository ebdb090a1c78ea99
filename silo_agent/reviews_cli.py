"""`cloister silo reviews ...`: what auditors examined here and found, and what is due."""

from pathlib import Path
from typing import Annotated, Any

import typer

from silo_agent.command import DEFAULT_STATE, Json, State, home_of, now, steward

app = typer.Typer(help="Auditors' reviews of this silo's ledger.", no_args_is_help=True)


@app.command("add")
def reviews_add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `cloister ledger review` wrote.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Put an auditor's signed review into the ledger."""
    from privacy.review import SignedReview
    from runtime.console import emit
    from runtime.files import read_file
    from silo_agent.office import record_review

    home = home_of(state)
    signed = SignedReview.decode(read_file(file, "Name the auditor's file."))
    record_review(home, signed, steward(home))
    review = signed.review
    due = f"; due {review.due}: {review.follow_up}" if review.due else ""
    emit(signed.review.model_dump(), as_json=as_json, text=f"review by {review.party}: {review.finding}{due}")


@app.command("list")
def reviews_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """All reviews, and which follow-ups are open or overdue."""
    from runtime.console import emit
    from silo_agent.display import reviews_lines
    from silo_agent.office import follow_ups, reviews

    today = now().date()
    with home_of(state).store.reading() as connection:
        entries, open_ = reviews(connection), {one.sequence: one for one in follow_ups(connection)}
    rows: list[dict[str, Any]] = []
    for entry in entries:
        still = open_.get(entry.sequence)
        rows.append(
            {
                "entry": entry.sequence,
                "utc": entry.utc,
                **entry.review.model_dump(),
                "open": still is not None,
                "overdue": still is not None and still.overdue(today),
            }
        )
    emit({"reviews": rows}, as_json=as_json, text=reviews_lines(rows))
