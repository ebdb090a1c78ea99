"""`cloister bench aggregation|heart`."""

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
    as_json: Json = False,
) -> None:
    """The demo's model at four hospitals under differential privacy, over several seeds, beside its baselines."""
    from federation.bench_view import heart_table
    from federation.heart.bench import bench_heart
    from runtime.console import emit

    found = bench_heart(seeds, _note)
    emit(found, as_json=as_json, text=heart_table(found))
