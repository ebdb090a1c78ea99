"""`cloister aggregator reviews ...`: what auditors examined of its ledger and found, and what is due."""

from pathlib import Path
from typing import Annotated

import typer

from aggregator.command import DEFAULT_STATE, Json, State

app = typer.Typer(help="Auditors' reviews of the aggregator's ledger.", no_args_is_help=True)


@app.command("add")
def reviews_add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `cloister ledger review` wrote.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Put an auditor's signed review into the ledger, whether or not the aggregator runs."""
    from datetime import UTC, datetime

    from aggregator.config import StateFolder
    from aggregator.reviews import add_review
    from privacy.review import SignedReview
    from runtime.console import emit
    from runtime.files import read_file
    from runtime.reviews_shown import recorded_line

    signed = SignedReview.decode(read_file(file, "Name the auditor's file."))
    add_review(StateFolder(state), signed, datetime.now(UTC))
    emit(signed.review.model_dump(), as_json=as_json, text=recorded_line(signed.review))


@app.command("list")
def reviews_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """All reviews, and which follow-ups are open or overdue."""
    from datetime import UTC, datetime

    from aggregator.config import StateFolder
    from aggregator.reviews import listed_reviews
    from runtime.console import emit
    from runtime.reviews_shown import reviews_lines

    rows = listed_reviews(StateFolder(state), datetime.now(UTC).date())
    emit({"reviews": rows}, as_json=as_json, text=reviews_lines(rows))
