"""What the commands of `cloister silo` share: options, the state folder, who is at the keyboard. Nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.options import text_on_record

if TYPE_CHECKING:
    from datetime import datetime

    from silo_agent.entries import Author
    from silo_agent.home import Home

State = Annotated[
    Path, typer.Option("--state", metavar="FOLDER", envvar="CLOISTER_SILO_STATE", help="The silo's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Population = Annotated[str, typer.Argument(metavar="POPULATION", callback=text_on_record, help="Whose privacy it is.")]
Reason = Annotated[
    str, typer.Option("--reason", callback=text_on_record, help="Goes on record, and is part of what is signed.")
]
LegalBasis = Annotated[str | None, typer.Option("--legal-basis", callback=text_on_record, help="Goes on record.")]
Dpia = Annotated[
    str | None,
    typer.Option("--dpia", callback=text_on_record, help="Reference of the impact assessment; goes on record."),
]
MOST_DAYS = 366  # privacy.two_person.MOST_GOOD, whose import takes long
Days = Annotated[
    int, typer.Option("--days", min=1, max=MOST_DAYS, help="How long it may take until it is recorded; signed as well.")
]
DEFAULT_DAYS = 30
DEFAULT_STATE = Path("silo-state")


def home_of(state: Path) -> "Home":
    """The state folder, opened. Raises ConfigError."""
    from silo_agent.home import Home

    return Home.open(state)


def steward(home: "Home") -> "Author":
    """The person at the keyboard, by the account of this machine."""
    from runtime.account import account
    from silo_agent.entries import Author

    return Author(home.name, account(), "steward", now())


def now() -> "datetime":
    """The time by this machine's clock, UTC."""
    from datetime import UTC, datetime

    return datetime.now(UTC)


def in_days(days: int) -> "datetime":
    """The time so many days from now."""
    from datetime import timedelta

    return now() + timedelta(days=days)
