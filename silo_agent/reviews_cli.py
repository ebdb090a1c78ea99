"""`cloister silo reviews ...`: what auditors examined here and found, and what is due."""

from pathlib import Path
from typing import Annotated

import typer

from silo_agent.command import DEFAULT_STATE, Json, State, home_of, now

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
    from runtime.reviews import record_review
    from runtime.reviews_shown import recorded_line

    home = home_of(state)
    signed = SignedReview.decode(read_file(file, "Name the auditor's file."))
    with home.store.writing() as tx:
        record_review(tx.ledger, signed, home.wallet.ca_pem, home.identity.sign, now())
    emit(signed.review.model_dump(), as_json=as_json, text=recorded_line(signed.review))


@app.command("list")
def reviews_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """All reviews, and which follow-ups are open or overdue."""
    from runtime.console import emit
    from runtime.ledger_store import Ledger
    from runtime.reviews_shown import review_facts, reviews_lines
    from silo_agent.tables import LEDGER

    with home_of(state).store.reading() as connection:
        rows = review_facts(Ledger(connection, LEDGER), now().date())
    emit({"reviews": rows}, as_json=as_json, text=reviews_lines(rows))
