"""`cloister bench aggregation|heart|training|audit|ledger`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from privacy.suites import Suite

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress


@app.command()
def aggregation(
    values: Annotated[int, typer.Option(min=1, help="Values of one update.")] = 1_000_000,
    silos: Annotated[int, typer.Option(min=2, max=100, help="Silos, each a process of its own.")] = 4,
    suite: Annotated[
        Suite | None, typer.Option(help="The cipher suite; by default ckks-multikey from four silos up.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    bits: Annotated[int, typer.Option(min=8, max=16, help="Bits of the grid.")] = 16,
    folder: Annotated[Path | None, typer.Option(help="Keep states and logs here; by default they are removed.")] = None,
    as_json: Json = False,
) -> None:
    """Seal, send, add, check and open, without training: what the machinery costs."""
    from federation.bench import bench_aggregation
    from federation.bench_view import aggregation_table
    from runtime.console import emit

    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as scratch:
        found = bench_aggregation(values, silos, suite, rounds, bits, folder or Path(scratch) / "bench", _note)
    emit(found, as_json=as_json, text=aggregation_table(found))


@app.command()
def heart(
    seeds: Annotated[int, typer.Option(min=1, help="Runs to average over.")] = 5,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="FedAvg, FedProx, FedAdam, FedYogi at epsilon 1, 2, 4, 8 and without.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Of a sweep: draw it into this SVG file.")] = None,
    as_json: Json = False,
) -> None:
    """The demo's model at four hospitals under differential privacy, over several seeds, beside its baselines."""
    from runtime.console import emit

    if not sweep:
        from federation.bench_view import heart_table
        from federation.heart.bench import bench_heart

        if plot is not None:
            raise typer.BadParameter("goes with --sweep", param_hint="--plot")
        found = bench_heart(seeds, _note)
        emit(found, as_json=as_json, text=heart_table(found))
        return
    from federation.heart.sweep import sweep_heart
    from federation.heart.sweep_view import draw, sweep_table

    found = sweep_heart(seeds, _note)
    if plot is not None:
        draw(found, plot)
    emit(found, as_json=as_json, text=sweep_table(found))


@app.command()
def training(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each kind; the median counts.")] = 15,
    as_json: Json = False,
) -> None:
    """A step of DP-SGD beside a plain step of the same adapter, with and without cached activations; on one core."""
    from federation.bench_training import bench_training
    from federation.bench_view import training_table
    from runtime.console import emit

    found = bench_training(steps, _note)
    emit(found, as_json=as_json, text=training_table(found))


@app.command()
def audit(
    runs: Annotated[int, typer.Option(min=20, help="Trainings with the canary, and as many without.")] = 1000,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of each lower bound.")] = 0.95,
    as_json: Json = False,
) -> None:
    """Attack the published adapters: a lower bound on epsilon, for the engine as shipped and with bugs planted."""
    from federation.audit.bench import bench_audit
    from federation.bench_view import audit_table
    from runtime.console import emit

    found = bench_audit(runs, confidence, _note)
    emit(found, as_json=as_json, text=audit_table(found))


@app.command()
def ledger(
    entries: Annotated[int, typer.Option(min=8, help="Entries of the log.")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=2, help="Entries of one transaction.")] = 1000,
    folder: Annotated[Path | None, typer.Option(help="Keep the database here; by default it is removed.")] = None,
    as_json: Json = False,
) -> None:
    """Append, prove, check, export and verify a long ledger of made-up entries."""
    from federation.bench_ledger import bench_ledger
    from federation.bench_view import ledger_table
    from runtime.console import emit

    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as scratch:
        kept = folder or Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        found = bench_ledger(entries, batch, kept, _note)
    emit(found, as_json=as_json, text=ledger_table(found))
