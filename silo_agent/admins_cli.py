"""`cloister silo admins ...`: the people who may change budgets, two together, and what they sign."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from silo_agent.command import DEFAULT_DAYS, DEFAULT_STATE, Days, Json, Reason, State, home_of, in_days, steward

if TYPE_CHECKING:
    from privacy.two_person import Proposal

app = typer.Typer(help="People who may change budgets, two together.", no_args_is_help=True)

Person = Annotated[str, typer.Argument(metavar="PERSON", help="A name such as dr-weber.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A proposal.")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The proposal, a new file.")]
ENV = "CLOISTER_ADMIN_PASSPHRASE"


@app.command("key")
def admins_key(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The key, a new file that only you may read.")],
    as_json: Json = False,
) -> None:
    """Make your own signing key, on your own machine: no state folder is needed, and nobody else gets it."""
    from certs.person_key import make_person_key
    from runtime.console import emit

    public_key = make_person_key(out, _passphrase(twice=True))
    text = [f"your key is in {out}; its public half, for `cloister silo admins add`:", public_key]
    emit({"key": str(out), "public_key": public_key}, as_json=as_json, text=text)


@app.command("list")
def admins_list(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Whose signatures count."""
    from privacy.two_person import QUORUM
    from runtime.console import emit
    from silo_agent.office import governance

    home = home_of(state)
    with home.store.reading() as connection:
        found = governance(connection)
    rows = sorted(found.administrators.items())
    listed = [{"person": person, "public_key": key} for person, key in rows]
    text = [f"{person}  {key}" for person, key in rows]
    if len(rows) < QUORUM:
        text.append(
            "no budget can be changed yet: that takes two. Next: cloister silo admins add PERSON --public-key KEY"
        )
    emit({"administrators": listed, "changes": found.number}, as_json=as_json, text=text)


@app.command("add")
def admins_add(
    person: Person,
    public_key: Annotated[str, typer.Option("--public-key", metavar="HEX", help="As that person tells you.")],
    out: Out,
    reason: Reason = "a person who may change budgets",
    days: Days = DEFAULT_DAYS,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Propose a person. They sign it with the new key; once there were two, two others as well."""
    hand_out(_propose(state, "add", person, public_key, reason, days), out, as_json=as_json)


@app.command("remove")
def admins_remove(
    person: Person,
    out: Out,
    reason: Reason,
    days: Days = DEFAULT_DAYS,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Propose that a person's signature counts no more. Two administrators sign it; two must be left."""
    from privacy.errors import Refused
    from silo_agent.office import governance

    with home_of(state).store.reading() as connection:
        known = governance(connection).administrators
    if person not in known:
        raise Refused(f"administrator {person}", "is none", "`cloister silo admins list` says who is.")
    hand_out(_propose(state, "remove", person, known[person], reason, days), out, as_json=as_json)


@app.command("sign")
def admins_sign(
    file: File,
    person: Annotated[str, typer.Option("--as", metavar="PERSON", help="Your name among the administrators.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your key.")],
    yes: Annotated[bool, typer.Option("--yes", help="Sign without being asked.")] = False,
    as_json: Json = False,
) -> None:
    """Read what a proposal changes, and sign it. Needs no state folder: do it on your own machine.

    Signed again, it has your newer signature. A name or key that is not among those of the proposal is refused.
    """
    from certs.person_key import load_person_key
    from privacy.errors import ConfigError
    from privacy.fields import NAME, NOT_A_NAME
    from privacy.two_person import statement_text
    from runtime.console import emit, printable
    from runtime.files import write_durably

    if not NAME.fullmatch(person):
        raise ConfigError("--as", NOT_A_NAME, "Give your name as `cloister silo admins list` has it.")
    proposal = _read(file)
    proposal.key_of(person)
    signing = load_person_key(key, _passphrase(twice=False))
    proposal.check_key(person, signing.public_key().public_bytes_raw())
    if not yes:
        for line in statement_text(proposal.statement).split("\n"):
            typer.echo(printable(line), err=True)
        typer.confirm("Sign this?", abort=True, err=True)
    signed = proposal.signed(person, signing.sign)
    write_durably(file, signed.encode(), 0o644)
    people = [approval.person for approval in signed.approvals]
    emit({"file": str(file), "signed_by": people}, as_json=as_json, text=f"{file} is signed by {', '.join(people)}")


@app.command("record")
def admins_record(file: File, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Make a change that has its signatures, and put it into the ledger."""
    from privacy.two_person import change_text
    from runtime.console import emit
    from silo_agent.office import record

    home, proposal = home_of(state), _read(file)
    record(home, proposal, steward(home))
    emit(proposal.model_dump(mode="json"), as_json=as_json, text=f"{change_text(proposal.statement.change)}: recorded")


def hand_out(proposal: "Proposal", out: Path, *, as_json: bool) -> None:
    """Write a proposal for the people who sign it. Raises ConfigError if the file is there."""
    from privacy.two_person import change_text
    from runtime.console import emit, refuse_existing
    from runtime.files import write_durably

    refuse_existing(out)
    write_durably(out, proposal.encode(), 0o644)
    text = [
        f"{change_text(proposal.statement.change)}: proposed in {out}",
        f"Next, each on their own machine: cloister silo admins sign {out.name} --as PERSON --key KEY",
        f"then here: cloister silo admins record {out}",
    ]
    emit({"file": str(out), **proposal.model_dump(mode="json")}, as_json=as_json, text=text)


def _passphrase(*, twice: bool) -> str:
    """From the environment, for scripts, or asked for; never an option, which every account of a machine could read."""
    given = os.environ.get(ENV)
    return given or str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice, err=True))


def _propose(
    state: Path, action: Literal["add", "remove"], person: str, key: str, reason: str, days: int
) -> "Proposal":
    from pydantic import ValidationError

    from privacy.errors import ConfigError
    from privacy.fields import first_complaint
    from privacy.two_person import AdminChange
    from silo_agent.office import propose_admin

    try:
        change = AdminChange(action=action, person=person, public_key=key)
    except ValidationError as error:
        step = "A name such as dr-weber, and the 64 hex digits that `cloister silo admins key` printed."
        raise ConfigError("administrator", first_complaint(error), step) from error
    return propose_admin(home_of(state), change, reason, in_days(days))


def _read(file: Path) -> "Proposal":
    from privacy.two_person import Proposal
    from runtime.files import read_file

    return Proposal.decode(read_file(file, "Name a file that `cloister silo budget change` or another command wrote."))
