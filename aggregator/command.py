"""What the commands of `cloister aggregator` share: options and the state folder. Nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path,
    typer.Option("--state", metavar="FOLDER", envvar="CLOISTER_AGGREGATOR_STATE", help="The aggregator's folder."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_STATE = Path("aggregator-state")
