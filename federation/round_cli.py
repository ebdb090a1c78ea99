"""`cloister round verify`: one round's transcript checked offline, by anybody, with public keys only."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def main() -> None:
    """Check rounds offline."""


@app.command()
def verify(
    transcript: Annotated[Path, typer.Argument(metavar="TRANSCRIPT", help="As `aggregator export` wrote it.")],
    sum_file: Annotated[
        Path | None,
        typer.Option("--sum", metavar="FILE", help="The round's sum, as the aggregator keeps it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Check every signature, who is in the sum, fingerprints and certificate; with --sum also the sum itself."""
    from federation.round_report import check, lines
    from runtime.console import emit

    facts = check(transcript, sum_file)
    emit(facts, as_json=as_json, text=list(lines(facts)))
