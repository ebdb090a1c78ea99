"""`cloister job plan|show`: what a job file becomes, and what the job promises and costs."""

from pathlib import Path
from typing import Annotated

import typer

from runtime.console import emit

app = typer.Typer(no_args_is_help=True)

State = Annotated[
    Path, typer.Option(envvar="CLOISTER_AGGREGATOR_STATE", help="The aggregator's state folder, whose members to ask.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


@app.command()
def plan(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml")],
    out: Annotated[Path, typer.Option(help="The folder for the plan and the starting adapter.")],
    state: State = Path("aggregator-state"),
    silo: Annotated[list[str] | None, typer.Option(help="A silo of the roster (repeat it); else all.")] = None,
    model_folder: Annotated[Path | None, typer.Option(help="Where the base model lies on this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Make a prepared job of a job file: pin the model, make the starting adapter, take the roster from the members."""
    from federation.jobs import prepare
    from federation.membership import enrolled

    made = prepare(job_file, out, enrolled(state), silos=silo or (), model_folder=model_folder)
    value = {"job": made.digest().hex(), "name": made.name, "values": made.values, "folder": str(out)}
    text = f"{made.name}: {made.values} values, {made.rounds} rounds, {len(made.cohort.roster)} silos -> {out}"
    emit(value, as_json=as_json, text=text)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A prepared job.")],
    as_json: Json = False,
) -> None:
    """Say what a job would do: what trains, what it costs each silo, and what its cipher suite promises."""
    from federation.jobs import read_plan
    from federation.promises import cost, promises

    found = read_plan(folder)
    told = {"promises": promises(found), "cost": cost(found)}
    lines = [
        f"job       {found.name} ({found.digest().hex()})",
        f"purpose   {found.purpose}",
        f"rounds    {found.rounds} of {found.values} values each, {found.grid.bits} bits a value",
        f"server    {found.server.kind}, learning rate {found.server.learning_rate:g}",
        f"silos     {', '.join(member.name for member in found.cohort.roster)}; least {found.cohort.minimum}",
        f"costs     {told['cost'] or 'nothing: a rehearsal touches no data'}",
    ]
    if found.dp is not None and found.dp.metrics is not None:
        lines.append("publishes accuracy and loss on all held-out parts together, each round, noised and charged")
    lines.append(f"opens to  {found.open_to.replace('+', ' and ')}")
    lines.append(f"suite     {found.suite.value}, parameters {found.parameters}")
    lines += [f"  {what:<26} {promise}" for what, promise in promises(found).items()]
    value = {"job": found.digest().hex(), "plan": found.model_dump(mode="json"), **told}
    emit(value, as_json=as_json, text=lines)
