"""`cloister silo budget ...`: what each population may spend, has spent, and would spend."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from runtime.options import text_on_record
from silo_agent.command import (
    DEFAULT_DAYS,
    DEFAULT_STATE,
    Days,
    Dpia,
    Json,
    LegalBasis,
    Population,
    Reason,
    State,
    home_of,
    in_days,
    now,
    steward,
)

app = typer.Typer(help="Privacy budgets of this institution's populations.", no_args_is_help=True)

Proposal = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="The proposal, a new file, for two people to sign.")
]


@app.command("set")
def budget_set(
    population: Population,
    epsilon: Annotated[float, typer.Option("--epsilon", help="The lifetime cap.")],
    delta: Annotated[float, typer.Option("--delta", help="Well under one over the population's size.")],
    state: State = DEFAULT_STATE,
    unit: Annotated[
        Literal["record", "patient"], typer.Option("--unit", help="What is protected: each one of these.")
    ] = "record",
    legal_basis: LegalBasis = None,
    dpia: Dpia = None,
    as_json: Json = False,
) -> None:
    """Set the first budget of a population. It is never reset; to change it takes two administrators."""
    from privacy.budget import BudgetPolicy
    from runtime.console import emit
    from silo_agent.accounts import open_budget
    from silo_agent.entries import References, policy_entry

    home = home_of(state)
    policy = BudgetPolicy(population, epsilon, delta, unit)
    entry = policy_entry(steward(home), policy, "first budget", References(legal_basis, dpia))
    with home.store.writing() as tx:
        open_budget(tx.connection, policy)
        tx.record(entry)
        tx.ledger.checkpoint(home.identity.sign, now())
    value = {"population": population, "epsilon": epsilon, "delta": delta, "unit": unit}
    text = f"{population} may spend epsilon {epsilon:g} at delta {delta:g} in all; what is protected is each {unit}"
    emit(value, as_json=as_json, text=text)


@app.command("show")
def budget_show(
    state: State = DEFAULT_STATE,
    job: Annotated[str | None, typer.Option("--job", metavar="JOB", help="What would this job cost?")] = None,
    as_json: Json = False,
) -> None:
    """Cap, spent, reserved and left of every population; with --job, what its rounds would make of each."""
    from runtime.console import emit
    from silo_agent.budget_view import budget_rows, job_rows
    from silo_agent.display import budgets_lines, forecast_lines

    home = home_of(state)
    if job is None:
        budgets = budget_rows(home)
        emit({"budgets": budgets}, as_json=as_json, text=budgets_lines(budgets))
        return
    plan, rows = job_rows(home, job)
    value = {"job": plan.digest().hex(), "name": plan.name, "budgets": rows}
    emit(value, as_json=as_json, text=forecast_lines(plan.name, rows))


@app.command("what-if")
def budget_what_if(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="What a coordinator would submit.")],
    state: State = DEFAULT_STATE,
    synthetic: Annotated[
        bool, typer.Option("--synthetic/--no-synthetic", help="Also train on made-up data, with and without the noise.")
    ] = True,
    as_json: Json = False,
) -> None:
    """What a job from this file would cost every population, and what its noise costs in accuracy on made-up data.

    Nothing is planned, reserved or sent.
    """
    from runtime.console import emit
    from silo_agent.display import what_if_lines
    from silo_agent.what_if import what_if_of

    found = what_if_of(home_of(state), job_file, synthetic=synthetic)
    emit(found, as_json=as_json, text=what_if_lines(found))


@app.command("change")
def budget_change(
    population: Population,
    epsilon: Annotated[float, typer.Option("--epsilon", help="The new lifetime cap; delta and unit stay.")],
    reason: Reason,
    out: Proposal,
    days: Days = DEFAULT_DAYS,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Propose another lifetime cap: two administrators sign it, then `cloister silo admins record` makes it so."""
    from silo_agent.admins_cli import hand_out
    from silo_agent.office import propose_budget

    proposal = propose_budget(home_of(state), population, epsilon, reason, in_days(days))
    hand_out(proposal, out, as_json=as_json)


@app.command("cap")
def budget_cap(
    population: Population,
    reason: Reason,
    epsilon: Annotated[float | None, typer.Option("--epsilon", help="The cap; without it: no cap any more.")] = None,
    purpose: Annotated[
        str | None,
        typer.Option(
            "--purpose", callback=text_on_record, help="Of all jobs of this purpose, word for word; else of each job."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="For a wider cap: the proposal that two people sign.")
    ] = None,
    days: Days = DEFAULT_DAYS,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Limit what one job, or all jobs of a purpose, may spend within a budget. Tightening is recorded at once."""
    from privacy.errors import ConfigError
    from privacy.two_person import SubCapChange, change_text
    from runtime.console import emit
    from silo_agent.admins_cli import hand_out
    from silo_agent.office import propose_sub_cap, record

    home = home_of(state)
    proposal = propose_sub_cap(home, population, purpose, epsilon, reason, in_days(days))
    change = proposal.statement.change
    if out is not None:
        hand_out(proposal, out, as_json=as_json)
        return
    if not (isinstance(change, SubCapChange) and change.tightens):
        step = "Name the file for their signatures with --out."
        raise ConfigError(change_text(change), "is a wider cap, which takes two administrators", step)
    record(home, proposal, steward(home))
    emit(change.model_dump(), as_json=as_json, text=change_text(change))
