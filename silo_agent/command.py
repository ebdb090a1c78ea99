"""What the commands of `cloister silo` share: options, the state folder, who is at the keyboard. Nothing heavy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from silo_agent.entries import Author
    from silo_agent.home import Home

State = Annotated[
    Path, typer.Option("--state", metavar="FOLDER", envvar="CLOISTER_SILO_STATE", help="The silo's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Population = Annotated[str, typer.Argument(metavar="POPULATION", help="Whose privacy it is.")]


def _short(text: str | None) -> str | None:
    if text is not None and not 1 <= len(text) <= MOST_TEXT:
        raise typer.BadParameter(f"give 1 to {MOST_TEXT} characters; these are {len(text)}")
    return text


Reason = Annotated[
    str, typer.Option("--reason", callback=_short, help="Goes on record, and is part of what is signed.")
]
LegalBasis = Annotated[str | None, typer.Option("--legal-basis", callback=_short, help="Goes on record.")]
Dpia = Annotated[
    str | None, typer.Option("--dpia", callback=_short, help="Reference of the impact assessment; goes on record.")
]
DEFAULT_STATE = Path("silo-state")
MOST_TEXT = 400  # privacy.fields.Text


def home_of(state: Path) -> "Home":
    """The state folder, opened. Raises ConfigError."""
    from silo_agent.home import Home

    return Home.open(state)


def steward(home: "Home") -> "Author":
    """The person at the keyboard, by the account of this machine."""
    import getpass

    from silo_agent.entries import Author

    try:
        account = getpass.getuser()
    except (KeyError, OSError):
        account = "unknown account"
    return Author(home.name, account[:200], "steward", now())


def now() -> "datetime":
    """The time by this machine's clock, UTC."""
    from datetime import UTC, datetime

    return datetime.now(UTC)
