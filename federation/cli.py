"""The `cloister` command: one root that mounts the programs' commands, and those that need a whole federation.

Only the group that was asked for is imported, so that `--help` is quick and an installation with the auditor's extra
alone can verify a ledger.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.errors import ConfigError

GROUPS = {
    "aggregator": ("aggregator.cli", "Coordinator: run the aggregator, invite silos, submit and watch jobs."),
    "silo": ("silo_agent.cli", "Silo: enrol, register data, set budgets, approve jobs, run the agent."),
    "certs": ("certs.cli", "Certificates: issue, sign, show, renew, revoke."),
    "ledger": ("federation.ledger_cli", "Ledger: show, export, verify, report, review, cosign, compare."),
    "round": ("federation.round_cli", "Rounds: check one's transcript offline, with public keys only."),
    "job": ("federation.job_cli", "Jobs: plan one from a file, show what one promises and costs."),
    "bench": ("federation.bench_cli", "Benchmarks: the machinery alone, or accuracy under differential privacy."),
}
OWN_PACKAGES = {"federation", "silo_agent", "aggregator", "runtime", "certs", "cloister", "privacy"}
EXTRAS = {
    "aggregator": "aggregator",
    "certs": "aggregator",
    "ledger": "auditor",
    "silo": "silo",
    "job": "silo",
    "round": "aggregator",
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def build(asked: str | None) -> typer.Typer:
    """The root application. The group named `asked` is real, the others are their names; None makes all real."""
    root = typer.Typer(
        name="cloister",
        help="Institutions fine-tune one model together; nobody sees another's records or updates.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    root.callback()(_root)
    root.command("demo")(_demo)
    root.command("doctor")(_doctor)
    for name, (module, text) in GROUPS.items():
        group = _load(name, module) if asked in (name, None) else typer.Typer()
        root.add_typer(group, name=name, help=text, no_args_is_help=True)
    return root


def _load(name: str, module: str) -> typer.Typer:
    found = importlib.import_module(module)
    if name == "aggregator":
        from aggregator import cli as aggregator_cli

        aggregator_cli.planner = _plan_job_file
    app: typer.Typer = found.app
    return app


def _plan_job_file(job_file: Path, folder: Path, state: Path) -> None:
    """Lets `aggregator submit` take a job file: planning needs the model, which the aggregator never touches."""
    from federation.membership import plan_job_file

    plan_job_file(job_file, folder, state)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"cloister {version('cloister')}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """The root takes no command of its own."""


def _demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where states, logs, adapter and report go, new; by default cloister-demo, cloister-demo-2, ..."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Four hospitals fine-tune one transformer on real patient data, on this machine, in about two minutes."""
    from federation.demo import demo, unused_folder

    demo(folder or unused_folder(Path("cloister-demo")), as_json=json)


def _doctor(
    silo: Annotated[
        Path | None, typer.Option(envvar="CLOISTER_SILO_STATE", help="Look at this silo's state folder as well.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what is wrong with this installation, and what to do about it."""
    from federation.doctor import doctor

    doctor(silo, as_json=json)


def asked_group(arguments: list[str]) -> str | None:
    """Which group a command line is about: its first word. None (all) when a shell asks for completions."""
    if any(key.endswith("_COMPLETE") and "CLOISTER" in key for key in os.environ):
        return None
    return next((argument for argument in arguments if not argument.startswith("-")), "")


class Root(typer.Typer):
    """The root, built when the command line is known; what goes wrong then is reported like any other error."""

    def __call__(self, *positional: Any, **named: Any) -> Any:  # noqa: ANN401 - typer's signature
        """Run the command line given as `args`. Raises ConfigError naming the extra that a command needs."""
        group = asked_group(named["args"])
        try:
            return build(group)(*positional, **named)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in OWN_PACKAGES:
                raise
            from federation.extras import extra_with

            extra = extra_with(error.name.partition(".")[0], EXTRAS.get(group or "", "demo"))
            raise ConfigError(
                f"cloister {group or ''}".strip(),
                f"needs {error.name}, which is not installed",
                f"Install it in the clone: pip install -c constraints.txt '.[{extra}]'.",
            ) from error


def main() -> None:
    """Run the command line; errors end it as docs/reference/exit-codes.md says."""
    from runtime.console import run

    sys.exit(run(Root()))


if __name__ == "__main__":
    main()
