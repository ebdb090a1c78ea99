"""`cloister silo ...`: for a silo's operator and steward. Errors are worded and exit codes set by runtime.console."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runtime.options import text_on_record
from silo_agent import admins_cli, budget_cli, reviews_cli, witnesses_cli
from silo_agent.command import DEFAULT_STATE, Dpia, Json, LegalBasis, State, home_of, now, steward

if TYPE_CHECKING:
    from privacy.plan import JobPlan

app = typer.Typer(help="Silo: enrol, register data, set budgets, approve jobs, run the agent.", no_args_is_help=True)
datasets_app = typer.Typer(help="Register the datasets that jobs may be approved for.", no_args_is_help=True)
peers_app = typer.Typer(help="Pin the identities of those this silo works with.", no_args_is_help=True)
app.add_typer(datasets_app, name="datasets")
app.add_typer(peers_app, name="peers")
app.add_typer(budget_cli.app, name="budget")
app.add_typer(admins_cli.app, name="admins")
app.add_typer(reviews_cli.app, name="reviews")
app.add_typer(witnesses_cli.app, name="witnesses")

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Its name, or the beginning of its digest.")]


@app.command()
def enrol(
    token: Annotated[str, typer.Option("--token", help="From `cloister aggregator invite`; good once.")],
    state: State = DEFAULT_STATE,
    aggregator: Annotated[
        str | None, typer.Option("--aggregator", metavar="HOST:PORT", help="Dial this instead of what it says.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make this silo's keys here, get them certified, and write the state folder."""
    from certs.identity import fingerprint
    from runtime.console import emit
    from silo_agent.enrol import enrol as enrol_here

    home = enrol_here(token, state, aggregator, now())
    own = fingerprint(home.identity.public_key)
    home.store.close()
    value = {"name": home.name, "federation": home.settings.federation, "state": str(state), "fingerprint": own}
    text = [
        f"{home.name} is enrolled in {home.settings.federation}; keys and settings are in {state}",
        f"this silo's identity fingerprint, for its peers: {own}",
        "Next: cloister silo peers trust NAME FINGERPRINT, once for every other silo",
    ]
    emit(value, as_json=as_json, text=text)


@app.command("rotate-key")
def rotate_key(
    token: Annotated[
        str | None, typer.Option("--token", help="From `cloister aggregator invite`, for this silo's own name.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", callback=text_on_record, help="Goes on record.")] = "a new key",
    give_up: Annotated[bool, typer.Option("--abandon", help="Keep the present key: forget a change begun.")] = False,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Go on under a new identity key: the ledger says so, signed by both keys. With the agent stopped and no job open.

    If it is interrupted, run it again with a token; or, until the ledger has the new key, with --abandon.
    """
    from certs.identity import fingerprint
    from runtime.console import emit
    from silo_agent.rotation import abandon, rotate

    if (token is None) != give_up:
        raise typer.BadParameter("give either --token or --abandon", param_hint="--token / --abandon")
    home = home_of(state)
    if token is None:
        abandon(home)
        own = fingerprint(home.identity.public_key)
        text = [
            f"{home.name} keeps its key: {own}",
            "if the aggregator's answer was lost, it knows the other one: enrol again with a fresh token",
        ]
        emit({"name": home.name, "fingerprint": own, "abandoned": True}, as_json=as_json, text=text)
        return
    done = rotate(home, token, reason, steward(home))
    value = {"name": home.name, "entry": done.entry, "replaced": done.old, "fingerprint": done.new}
    value |= {"changed_before": done.before}
    changed = "had another key already; nothing was changed now, and this token is not used" if done.before else ""
    text = [
        f"{home.name} {changed or 'signs with another key now'}; entry {done.entry} of its ledger says so",
        f"this silo's identity fingerprint, for its peers and auditors: {done.new}",
        f"no longer: {done.old}",
        f"Next: at every other silo, cloister silo peers trust {home.name} FINGERPRINT; then start the agent",
    ]
    emit(value, as_json=as_json, text=text)


@app.command()
def run(
    state: State = DEFAULT_STATE,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option("--log-level", case_sensitive=False, help="The least that is logged."),
    ] = "info",
    as_json: Json = False,
) -> None:
    """Run the agent until it is told to stop (SIGTERM, Ctrl-C). One at a time per state folder."""
    from runtime.console import emit
    from runtime.logs import configure_logs
    from silo_agent.daemon import run_until_signalled

    configure_logs(log_level)
    name = run_until_signalled(state)
    if as_json:
        emit({"name": name, "state": str(state), "stopped": True}, as_json=True)


@app.command()
def status(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """What the agent last said: phase, budget left, what stands in the way; reviews due, rewritten ledgers."""
    from runtime.console import emit
    from runtime.ledger_store import Ledger
    from runtime.reviews import follow_ups
    from runtime.reviews_shown import due_facts
    from runtime.witness_store import WitnessBook
    from silo_agent.display import status_lines
    from silo_agent.status import read_status
    from silo_agent.tables import LEDGER, WITNESS

    home = home_of(state)
    facts = {**read_status(state), "name": home.name}
    with home.store.reading() as connection:
        open_ = follow_ups(Ledger(connection, LEDGER))
        contradictions = WitnessBook(connection, WITNESS).contradictions()
    facts["reviews_due"] = due_facts(open_, now().date())
    facts["rewritten_ledgers"] = sorted({found.log for found in contradictions})
    emit(facts, as_json=as_json, text=status_lines(facts))


@app.command()
def jobs(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """The jobs this silo knows, and what was decided about each."""
    from runtime.console import emit
    from silo_agent.display import jobs_lines
    from silo_agent.jobs import all_jobs

    home = home_of(state)
    with home.store.reading() as connection:
        known = all_jobs(connection)
    listed = [
        {
            "job": record.job.hex(),
            "name": record.name,
            "state": str(record.state),
            "purpose": record.plan.purpose,
            "rounds": record.plan.rounds,
            "epsilon": _price(record.plan),
            "delta": record.plan.dp.delta if record.plan.dp else None,
            "suite": str(record.plan.suite),
            "open_to": record.plan.open_to,
            "dataset": record.dataset,
            "decided_by": record.decided_by,
            "why": record.why,
        }
        for record in known
    ]
    emit({"jobs": listed}, as_json=as_json, text=jobs_lines(listed))


def _price(plan: "JobPlan") -> float | None:
    """Epsilon of the planned rounds, alone and at the plan's delta; None for a mechanism that cannot be priced."""
    from privacy.errors import ConfigError
    from privacy.job_budget import job_epsilon

    try:
        return round(job_epsilon(plan, plan.dp.delta, plan.rounds), 4) if plan.dp is not None else 0.0
    except ConfigError:
        return None


@app.command()
def approve(
    job: JobName,
    dataset: Annotated[str | None, typer.Option("--dataset", help="A registered one; none for a rehearsal.")] = None,
    extra_rounds: Annotated[int, typer.Option("--extra-rounds", help="Granted too, for rounds that fail.")] = 0,
    legal_basis: LegalBasis = None,
    dpia: Dpia = None,
    accept_shared_noise: Annotated[
        bool, typer.Option("--accept-shared-noise", help="Rely on other members of each sum to add their noise.")
    ] = False,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Let a job have its rounds on a dataset, if data, model, peers and budget allow them.

    A round that fails after training is charged like any other: without --extra-rounds the job ends here one earlier.
    """
    from privacy.errors import Refused
    from runtime.console import emit
    from silo_agent.approval import Terms
    from silo_agent.approval import approve as approve_job
    from silo_agent.budget_view import by_record_text
    from silo_agent.entries import References
    from silo_agent.jobs import JobState, named_job
    from silo_agent.policy import assumption, lone_epsilon

    home = home_of(state)
    with home.store.reading() as connection:
        record = named_job(connection, job)
    if record.state is not JobState.SEEN:
        raise Refused(f"job {record.name}", f"is {record.state} already", "`cloister silo jobs` lists the jobs.")
    terms = Terms(extra_rounds, References(legal_basis, dpia), accept_shared_noise)
    examined = approve_job(home, record.plan, dataset, steward(home), terms)
    forecast = examined.forecast
    value: dict[str, Any] = {"job": record.job.hex(), "name": record.name, "state": "approved", "dataset": dataset}
    text = [f"{record.name} is approved"]
    if forecast is not None:
        before, after = forecast.epsilon_before, forecast.epsilon_after
        rounds = forecast.rounds_asked
        value |= {"epsilon_before": before, "epsilon_after": after, "rounds_granted": rounds}
        text[0] += f" for {rounds} charged rounds; by them epsilon goes from {before:.3f} to at most {after:.3f}"
        if record.plan.dp is not None and record.plan.dp.noise == "shared":
            delta = record.plan.dp.delta
            value |= {"honest_members": record.plan.dp.noise_shares}
            value |= {"epsilon_if_alone": lone_epsilon(record.plan, delta, rounds)}
            text.append(f"Bear in mind: {assumption(record.plan, delta, rounds)}.")
    if record.plan.dp is not None and record.plan.dp.metrics is not None:
        value["publishes_validation"] = True
        text.append(
            "Each round publishes accuracy and loss on all silos' held-out parts together, noised; it is in epsilon."
        )
    if examined.by_record is not None:
        value["by_record"] = asdict(examined.by_record)
        text.append(by_record_text(examined.by_record))
    emit(value, as_json=as_json, text=text)


@app.command()
def refuse(job: JobName, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Take no part in a job; in one that was joined, train no further round. What was spent stays spent."""
    from privacy.errors import Refused
    from runtime.console import emit
    from silo_agent.approval import refuse as refuse_job
    from silo_agent.approval import withdraw
    from silo_agent.jobs import TAKING_PART, named_job

    home = home_of(state)
    with home.store.reading() as connection:
        record = named_job(connection, job)
    if record.state.over:
        raise Refused(f"job {record.name}", f"is {record.state}", "There is nothing left to refuse.")
    if record.state in TAKING_PART:
        withdraw(home, record.plan, steward(home))
        decided = "withdrawn"
        text = f"no further round of {record.name} is trained here; one under way goes on to its end"
    else:
        refuse_job(home, record.plan, "steward", None, steward(home))
        decided, text = "refused", f"{record.name} is refused"
    emit({"job": record.job.hex(), "name": record.name, "state": decided}, as_json=as_json, text=text)


@app.command()
def preflight(job: JobName, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """What the self-test measured before this silo joined a job: made-up examples, no record, no budget."""
    from runtime.console import emit
    from silo_agent.preflight_report import facts, text

    found = facts(home_of(state), job)
    emit(found, as_json=as_json, text=text(found))


@app.command()
def export(
    job: JobName,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Write the current global adapter as a PEFT folder that `PeftModel.from_pretrained` loads."""
    from runtime.console import emit
    from silo_agent.exporting import export_adapter

    folder = export_adapter(home_of(state), job, out)
    emit({"folder": str(folder)}, as_json=as_json, text=f"adapter written to {folder}")


@datasets_app.command("add")
def datasets_add(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.toml", help="docs/how-to/prepare-a-dataset.md")],
    not_compared: Annotated[
        list[str] | None,
        typer.Option("--not-compared", metavar="NAME", help="A dataset of other people, its files gone or changed."),
    ] = None,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Register a dataset: it is read and checked now, and read again for every job.

    Refused if most of its records are in a dataset of another population: these people have a budget. So it is if one
    of another population cannot be read again as it was registered, unless it is named.
    """
    from runtime.config import load_config
    from runtime.console import emit
    from silo_agent.dataset_spec import DatasetSpec
    from silo_agent.datasets import load_dataset
    from silo_agent.overlap import check_apart
    from silo_agent.register import RegisteredDataset, add_dataset, all_datasets, data_files

    home = home_of(state)
    described = load_config(DatasetSpec, spec, "CLOISTER_DATASET", {})
    with home.store.reading() as connection:
        known = next((item.spec for item in all_datasets(connection) if item.name == described.name), None)
    described = described.with_seed(DatasetSpec.model_validate_json(known) if known is not None else None)
    folder = spec.resolve().parent
    load_dataset(described, folder)
    with home.store.reading() as connection:
        uncompared = check_apart(connection, described, folder, not_compared or ())
    registered = RegisteredDataset(described.name, described.population, folder, described.model_dump_json())
    files = data_files(described.files(folder))
    with home.store.writing() as tx:
        add_dataset(tx.connection, registered, files, now())
    value: dict[str, Any] = {"name": described.name, "population": described.population, "unit": described.unit}
    value["not_compared"] = [asdict(each) for each in uncompared]
    text = [
        f"dataset {described.name} of population {described.population} is registered",
        *(f"not compared with dataset {each.name} of population {each.population}: {each.why}" for each in uncompared),
    ]
    emit(value, as_json=as_json, text=text)


@datasets_app.command("list")
def datasets_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """The registered datasets."""
    from runtime.console import emit, table
    from silo_agent.register import all_datasets

    with home_of(state).store.reading() as connection:
        found = all_datasets(connection)
    listed = [{"name": item.name, "population": item.population, "folder": str(item.folder)} for item in found]
    rows = [[item.name, item.population, str(item.folder)] for item in found]
    emit({"datasets": listed}, as_json=as_json, text=table(("name", "population", "folder"), rows))


@peers_app.command("trust")
def peers_trust(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The peer's name in the federation.")],
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="As its operator reads it to you.")],
    state: State = DEFAULT_STATE,
    role: Annotated[
        Literal["silo", "aggregator", "auditor"], typer.Option("--role", help="What it is pinned as.")
    ] = "silo",
    as_json: Json = False,
) -> None:
    """Pin a peer's identity. Get the fingerprint from the peer itself (`cloister certs show`), not from the job."""
    from certs.identity import parse_fingerprint
    from certs.names import PartyId, Role
    from runtime.console import emit
    from silo_agent.entries import key_entry
    from silo_agent.peers import trust_peer, trusted_peers

    home = home_of(state)
    party = PartyId(home.settings.federation, Role(role), name)
    pinned = parse_fingerprint(fingerprint)
    author = steward(home)
    with home.store.writing() as tx:
        before = trusted_peers(tx.connection).get((party.role, name))
        trust_peer(tx.connection, party.role, name, pinned, author.now)
        tx.record(key_entry(author, "pinned", party.uri, pinned, "a steward compared the fingerprint"))
        tx.ledger.checkpoint(home.identity.sign, author.now)
    replaced = before if before not in (None, pinned) else None
    value = {"role": role, "name": name, "fingerprint": pinned, "replaced": replaced}
    text = [f"{role} {name} is pinned to {pinned}", *([f"no longer to {replaced}"] if replaced else [])]
    emit(value, as_json=as_json, text=text)


@peers_app.command("list")
def peers_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """The pinned identities, this silo's own first."""
    from certs.identity import fingerprint
    from runtime.console import emit, table
    from silo_agent.peers import trusted_peers

    home = home_of(state)
    with home.store.reading() as connection:
        pins = trusted_peers(connection)
    own = fingerprint(home.identity.public_key)
    rows = [["silo", f"{home.name} (this silo)", own], *([*party, pinned] for party, pinned in pins.items())]
    listed = [{"role": role, "name": name, "fingerprint": pinned} for (role, name), pinned in pins.items()]
    emit({"own": own, "peers": listed}, as_json=as_json, text=table(("role", "name", "fingerprint"), rows))
