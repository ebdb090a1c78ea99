"""`cloister silo witnesses ...`: who confirms this silo's ledger, whose ledgers it confirms, and what contradicts."""

from pathlib import Path
from typing import Annotated

import typer

from silo_agent.command import DEFAULT_STATE, Json, State, home_of, now

app = typer.Typer(help="Who cosigns this silo's ledger, and whose ledgers it cosigns.", no_args_is_help=True)


@app.command("list")
def witnesses_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Each witness' newest cosignature of this ledger; the logs witnessed here; contradictions that were noticed."""
    from runtime.console import emit
    from silo_agent.display import witnesses_lines
    from silo_agent.witnessing import facts

    found = facts(home_of(state))
    emit(found, as_json=as_json, text=witnesses_lines(found))


@app.command("add")
def witnesses_add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `cloister ledger cosign` wrote.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Keep a cosignature that an auditor made by hand; exports carry it from then on."""
    from privacy.ledger.handed import HandedCosignature
    from runtime.console import emit
    from runtime.files import read_file
    from silo_agent.witnessing import take_handed

    handed = HandedCosignature.decode(read_file(file, "Name the auditor's file."))
    witness = take_handed(home_of(state), handed, now())
    text = f"{witness} cosigned {handed.size} entries"
    emit({"witness": witness, "entries": handed.size}, as_json=as_json, text=text)
