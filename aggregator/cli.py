"""`cloister aggregator ...`. Errors are worded and exit codes set by runtime.console."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator import reviews_cli
from aggregator.command import DEFAULT_STATE, Json, State
from privacy.errors import ConfigError
from runtime.options import text_on_record

if TYPE_CHECKING:
    from datetime import timedelta

    from aggregator.config import StateFolder

app = typer.Typer(help="Coordinator: run the aggregator, invite silos, submit and watch jobs.", no_args_is_help=True)
app.add_typer(reviews_cli.app, name="reviews")

# (job file, folder to prepare, aggregator's state folder): set by whoever can plan jobs, which needs the model.
planner: Callable[[Path, Path, Path], object] | None = None

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Its name, or the beginning of its digest.")]


@app.command()
def init(
    federation: Annotated[str, typer.Option("--federation", help="The federation's name, such as heart-study.")],
    state: State = DEFAULT_STATE,
    name: Annotated[str, typer.Option("--name", help="The aggregator's name.")] = "aggregator",
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="For silos.")] = "127.0.0.1:7443",
    enrolment_listen: Annotated[
        str, typer.Option("--enrolment-listen", metavar="HOST:PORT", help="For new silos.")
    ] = "127.0.0.1:7444",
    public_name: Annotated[
        list[str] | None, typer.Option("--public-name", help="DNS name or IP address that silos dial; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Found a federation here: its CA, the aggregator's certificates, the coordinator's."""
    from datetime import UTC, datetime

    from aggregator.setup import Founding, found
    from certs.identity import fingerprint
    from certs.wallet import Wallet
    from runtime.console import emit

    folder = _folder(state)
    found(folder, Founding(federation, name, listen, enrolment_listen, public_name or ()), datetime.now(UTC))
    facts = {
        "state": str(state),
        "federation": federation,
        "aggregator": Wallet(folder.wallet).party.uri,
        "fingerprint": fingerprint(Wallet(folder.wallet).identity().public_key),
        "listen": listen,
        "enrolment_listen": enrolment_listen,
    }
    text = [
        f"Federation {federation} in {state}",
        f"aggregator's identity fingerprint {facts['fingerprint']}",
        f"Next: cloister aggregator run --state {state}, and cloister aggregator invite NAME --state {state}",
    ]
    emit(facts, as_json=as_json, text=text)


@app.command()
def invite(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as hospital-a.")],
    role: Annotated[str, typer.Option("--role", help="Only silos enrol by token.")] = "silo",
    lifetime: Annotated[str, typer.Option("--lifetime", help="Such as 24h, 90m or 7d.")] = "24h",
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Print a one-time token with which NAME can enrol. Hand it over like a password."""
    from datetime import UTC, datetime

    from aggregator.server import open_desk, open_store
    from certs.names import Role
    from certs.times import utc_text
    from runtime.console import emit

    if role not in set(Role):
        raise ConfigError(f"role {role!r}", "is unknown", f"Use one of {', '.join(Role)}.")
    if role != Role.SILO:
        command = f"cloister certs issue {role} {name} --out FOLDER --ca {_folder(state).ca}"
        step = f"Make its folder where the CA is, and hand that over like a password: {command}"
        raise ConfigError(f"a token for the {role} {name}", "could not be redeemed: only silos enrol by token", step)
    folder = _folder(state)
    config = folder.load()
    store = open_store(folder, config)
    try:
        invitation = open_desk(folder, config, store).invite(Role(role), name, datetime.now(UTC), _lifetime(lifetime))
    finally:
        store.close()
    token = invitation.encode()
    facts = {"token": token, "party": invitation.party.uri, "expires_utc": utc_text(invitation.expires_utc)}
    emit(facts, as_json=as_json, text=token)


@app.command("rotate-key")
def rotate_key(
    reason: Annotated[str, typer.Option("--reason", callback=text_on_record, help="Goes on record.")] = "a new key",
    give_up: Annotated[bool, typer.Option("--abandon", help="Keep the present key: forget a change begun.")] = False,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Go on under a new identity key: the ledger says so, signed by both. With the aggregator stopped, no job open.

    If it is interrupted, run it again; or, until the ledger has the new key, with --abandon.
    """
    from datetime import UTC, datetime

    from aggregator.rotation import abandon, rotate
    from certs.identity import fingerprint
    from certs.wallet import Wallet
    from runtime.console import emit

    folder = _folder(state)
    own = Wallet(folder.wallet).identity()
    name = own.party.name
    if give_up:
        abandon(folder)
        kept = {"name": name, "fingerprint": fingerprint(own.public_key), "abandoned": True}
        emit(kept, as_json=as_json, text=f"{name} keeps its key: {kept['fingerprint']}")
        return
    done = rotate(folder, reason, datetime.now(UTC))
    value = {"name": name, "entry": done.entry, "replaced": done.old, "fingerprint": done.new}
    value |= {"changed_before": done.before}
    changed = "had another key already; nothing was changed now" if done.before else "signs with another key now"
    text = [
        f"{name} {changed}; entry {done.entry} of its ledger says so",
        f"the aggregator's identity fingerprint, for the silos and auditors: {done.new}",
        f"no longer: {done.old}",
        f"Next: cloister aggregator run; at every silo, cloister silo peers trust {name} FINGERPRINT --role aggregator",
    ]
    emit(value, as_json=as_json, text=text)


@app.command()
def run(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Run the aggregator until SIGTERM. It takes up every job where it was, also after a power cut."""
    from aggregator.server import run_until_signalled
    from runtime.logs import configure_logs

    folder = _folder(state)
    configure_logs(folder.load().log_level, as_json=as_json)
    run_until_signalled(folder)


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(metavar="FOLDER|JOB.toml", help="A prepared job, or a job file to prepare.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Submit a job; its silos are asked whether they take part."""
    import tempfile

    from aggregator.client import coordinator
    from runtime.console import emit

    with tempfile.TemporaryDirectory(prefix="cloister-job-") as scratch:
        folder = job
        if not job.is_dir():
            folder = Path(scratch) / "prepared"
            _plan(job, folder, state)
        with coordinator(_folder(state)) as aggregator:
            digest = aggregator.submit(folder).hex()
    emit({"job": digest}, as_json=as_json, text=[f"job {digest}", f"Next: cloister aggregator watch --state {state}"])


@app.command()
def cancel(job: JobName, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """End a job. What silos have submitted stays spent."""
    from aggregator.client import coordinator
    from runtime.console import emit

    with coordinator(_folder(state)) as aggregator:
        found = aggregator.find(job)
        aggregator.cancel(found.job)
    emit({"job": found.job.hex(), "phase": "CANCELLED"}, as_json=as_json, text=f"{found.name} is cancelled")


@app.command()
def watch(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Show the jobs as they go on; with --json a line for every change. Ends with Ctrl-C."""
    from aggregator.client import coordinator
    from aggregator.display import print_lines, show_live

    with coordinator(_folder(state)) as aggregator:
        (print_lines if as_json else show_live)(aggregator.watch())


@app.command()
def rounds(job: JobName, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List a job's rounds: who took part, who is in the sum, how long it took."""
    from aggregator.client import coordinator
    from aggregator.display import round_facts, rounds_shown
    from runtime.console import emit

    with coordinator(_folder(state)) as aggregator:
        found = aggregator.find(job)
        listed = aggregator.rounds(found.job)
    facts = {"job": found.job.hex(), "name": found.name, "rounds": [round_facts(each) for each in listed]}
    emit(facts, as_json=as_json, text=rounds_shown(found.name, listed))


@app.command()
def status(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Say who is enrolled and connected, where every job stands, and what reviews of its ledger ask for until when."""
    from datetime import UTC, datetime

    from aggregator.client import coordinator
    from aggregator.display import job_facts, member_facts, status_shown
    from runtime.console import emit
    from runtime.reviews_shown import due_facts

    with coordinator(_folder(state)) as aggregator:
        members, jobs, open_ = aggregator.members(), aggregator.jobs(), aggregator.follow_ups()
    due = due_facts(open_, datetime.now(UTC).date())
    facts = {"members": [member_facts(each) for each in members], "jobs": [job_facts(each) for each in jobs]}
    emit({**facts, "reviews_due": due}, as_json=as_json, text=status_shown(members, jobs, due))


@app.command()
def export(
    job: JobName,
    number: Annotated[int, typer.Option("--round", min=1, help="The round's number.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Write one round's transcript, which anybody can check offline. (The adapter itself is exported by a silo.)"""
    from aggregator.client import coordinator
    from runtime.console import emit
    from runtime.files import write_durably

    if out.exists():
        raise ConfigError(f"file {out}", "exists", "Name a new file.")
    with coordinator(_folder(state)) as aggregator:
        found = aggregator.find(job)
        record = aggregator.transcript(found.job, number)
    write_durably(out, record, 0o644)
    facts = {"job": found.job.hex(), "round": number, "file": str(out), "bytes": len(record)}
    emit(facts, as_json=as_json, text=f"round {number} of {found.name}: {out}")


@app.command()
def model(
    job: JobName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Write the model of a job that opens to the aggregator as well: little-endian float32, in the plan's order."""
    from aggregator.client import coordinator
    from aggregator.model import file_digest
    from runtime.console import emit
    from runtime.files import write_parts_durably

    if out.exists():
        raise ConfigError(f"file {out}", "exists", "Name a new file.")
    with coordinator(_folder(state)) as aggregator:
        found = aggregator.find(job)
        write_parts_durably(out, (part.values for part in aggregator.model(found.job)))
    digest = file_digest(out).hex()
    facts = {"job": found.job.hex(), "file": str(out), "adapter_digest": digest}
    emit(facts, as_json=as_json, text=[f"model of {found.name}: {out}", f"adapter digest {digest}"])


def _folder(state: Path) -> "StateFolder":
    from aggregator.config import StateFolder

    return StateFolder(state)


def _plan(job_file: Path, folder: Path, state: Path) -> Any:  # noqa: ANN401 - whatever the planner returns
    if not job_file.exists():
        raise ConfigError(str(job_file), "does not exist", "Name a prepared job folder, or a job file.")
    if planner is None:
        raise ConfigError(
            str(job_file), "is a job file, and this program cannot plan jobs", "Run `cloister job plan` first."
        )
    return planner(job_file, folder, state)


def _lifetime(text: str) -> "timedelta":
    from datetime import timedelta

    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise ConfigError(f"lifetime {text!r}", "is not a number with s, m, h or d", "Give it like 24h or 7d.")
    return timedelta(**{units[match[2]]: int(match[1])})
