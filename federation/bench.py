"""`cloister bench aggregation`: the machinery alone, no training, through real processes and TLS on this machine.

Every figure is measured: by the silos (timings.jsonl), by the aggregator (its list of rounds), by the kernel (VmHWM).
`protect` is encode, encrypt and serialise; of it, `protect_after_training` is what cannot be done beside training (the
suite ckks-multikey makes its pads there). They, `quantise`, `aggregate` and `open` are processor time of one core, in a
round in which all programs share this machine; `aggregate_alone` is the aggregator's part without the others.
Silos send pseudo-random values that can be computed again, so the opened mean is compared with the exact one.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.bench_alone import aggregate_alone
from federation.jobs import prepare
from federation.local import LocalFederation, SiloSetting, latest_adapter, local_federation
from federation.processes import require_command
from privacy.ckks.layouts import layout_of
from privacy.errors import VerificationError
from privacy.plan import JobPlan
from privacy.quantise import grid_step
from privacy.suites import Suite, usual_suite
from silo_agent.rehearsal import rehearsal_vector

UPDATE_RANGE = 1.0
PART = 1 << 20
ROUND_S = 600.0
JOB_FILE = """name = "bench"
federation = "bench"
rounds = {rounds}
suite = "{suite}"
grid_bits = {bits}
[rehearsal]
values = {values}
update_range = {update_range}
[cohort]
minimum = {silos}
"""


def bench_aggregation(
    values: int, silos: int, suite: Suite | None, rounds: int, bits: int, folder: Path, note: Callable[[str], None]
) -> dict[str, Any]:
    """Run `rounds` rounds of `silos` silos with `values` values each, all in every sum; returns the figures by name.

    `suite` None: what a job file that names none gets.
    Raises VerificationError if an opened mean is further from the exact one than one grid step.
    """
    require_command()
    with local_federation(folder, "bench", note) as federation:
        federation.start_aggregator()
        federation.enrol([SiloSetting(f"silo-{i:02}", policy={"rehearsals": True}) for i in range(1, silos + 1)])
        federation.start_silos()
        idle = idle_memory(federation)
        job_file = folder / "job.toml"
        job_file.write_text(job_text(values, silos, suite, rounds, bits))
        plan = prepare(job_file, folder / "job", federation.membership())
        job = federation.submit(folder / "job")
        note(f"{silos} silos, {values} values, {rounds} rounds")
        adapters = _Adapters(federation, job, folder / "adapters", note)
        federation.wait_for_job(ROUND_S * rounds, adapters.look)
        federation.require_finished(job)
        adapters.look()
        _require_equal(federation, job)
        found = _figures(federation, job, plan, adapters) | idle
    note("the aggregator's part once more, alone")
    alone = aggregate_alone(layout_of(plan), silos, folder)
    return found | {"aggregate_alone_ns_per_value_per_silo": alone}


def job_text(values: int, silos: int, suite: Suite | None, rounds: int, bits: int) -> str:
    """The job file of a run."""
    chosen = (suite or usual_suite(silos)).value
    return JOB_FILE.format(
        rounds=rounds, suite=chosen, bits=bits, values=values, update_range=UPDATE_RANGE, silos=silos
    )


def idle_memory(federation: LocalFederation) -> dict[str, float]:
    """Resident memory of programs that have been started and have no job yet, MB."""
    return {
        "aggregator_idle_rss_mb": federation.aggregator.rss_mb,
        "silo_idle_rss_mb": max(silo.daemon.rss_mb for silo in federation.silos),
    }


def protect_figures(plan: JobPlan, timings: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What it takes to seal a value, from all lines of the silos' timings.jsonl, and how long its ciphertext is."""
    after = [line["seal_ns"] / line["values"] for line in timings]
    beside = [line["pad_ns"] / line["values"] for line in timings]
    return {
        "ciphertext_bytes_per_value": layout_of(plan).upload_bytes / plan.values,
        "quantise_ns_per_value": statistics.median(line["quantise_ns"] / line["values"] for line in timings),
        "protect_ns_per_value": statistics.median(map(sum, zip(after, beside, strict=True))),
        "protect_after_training_ns_per_value": statistics.median(after),
    }


class _Adapters:
    """Keeps every round's adapter of the first silo, which itself keeps the last two, and tells of finished rounds."""

    def __init__(self, federation: LocalFederation, job: str, folder: Path, note: Callable[[str], None]) -> None:
        self._federation = federation
        self._shelf = federation.silos[0].state / "artifacts" / job
        self._folder = folder
        self._note = note
        self._told = 0
        folder.mkdir()

    def look(self) -> None:
        """Called every few milliseconds, far more often than rounds end."""
        for path in self._shelf.glob("adapter-*.f32"):
            kept = self._folder / path.name
            if not kept.exists():
                with suppress(FileNotFoundError):
                    kept.hardlink_to(path)
        done = min(len(silo.timings()) for silo in self._federation.silos)
        if done > self._told:
            self._told = done
            longest = max(silo.timings()[done - 1]["round_s"] for silo in self._federation.silos)
            self._note(f"round {done} done: {longest:.2f} s of work at the slowest silo")

    def of(self, number: int) -> npt.NDArray[np.float32]:
        """The global adapter after a round; zeros before the first."""
        if number == 0:
            return np.zeros(1, np.float32)
        return np.memmap(self._folder / f"adapter-{number}.f32", "<f4", mode="r")


def _figures(federation: LocalFederation, job: str, plan: JobPlan, adapters: _Adapters) -> dict[str, Any]:
    published = [row for row in federation.rounds(job) if row["phase"] == "PUBLISHED"]
    timings = [line for silo in federation.silos for line in silo.timings()]
    sums = sum(len(row["members"]) for row in published)
    error = _largest_error(plan, published, adapters)
    step = grid_step(UPDATE_RANGE, plan.grid.bits)
    found = {
        "suite": plan.suite.value,
        "parameters": plan.parameters,
        "values": plan.values,
        "silos": len(federation.silos),
        "rounds": len(published),
        "upload_bytes_per_value": sum(row["bytes_received"] for row in published) / sums / plan.values,
        **protect_figures(plan, timings),
        "aggregate_ns_per_value_per_silo": sum(row["aggregation_seconds"] for row in published)
        * 1e9
        / sums
        / plan.values,
        "open_ns_per_value": statistics.median(line["open_ns"] / line["values"] for line in timings),
        "round_seconds": [row["seconds"] for row in published],
        "aggregator_peak_rss_mb": federation.aggregator.peak_rss_mb,
        "silo_peak_rss_mb": max(silo.daemon.peak_rss_mb for silo in federation.silos),
        "max_abs_error": error,
        "grid_step": step,
    }
    if error > step:
        raise VerificationError("opened means", f"are {error:.3g} from the exact ones", "Report this with the seed.")
    return found


def _largest_error(plan: JobPlan, published: list[dict[str, Any]], adapters: _Adapters) -> float:
    """The largest difference between what a round opened to and the exact mean of what its members sent."""
    largest, before = 0.0, 0
    for row in published:
        exact: npt.NDArray[np.float64] = np.zeros(plan.values)
        for name in row["members"]:
            exact += rehearsal_vector(name, plan.digest(), row["round"], plan.values, UPDATE_RANGE)
        exact /= len(row["members"])
        opened = adapters.of(row["round"]).astype(np.float64) - adapters.of(before)
        largest, before = max(largest, float(np.abs(opened - exact).max())), row["round"]
    return largest


def _require_equal(federation: LocalFederation, job: str) -> None:
    """Every silo holds the same bytes. Raises VerificationError."""
    digests = {sha256(latest_adapter(silo.state, job)[1].read_bytes()).hexdigest() for silo in federation.silos}
    if len(digests) != 1:
        raise VerificationError("the silos' adapters", "differ", "Report this.")
