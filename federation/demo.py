"""`cloister demo`: four hospitals fine-tune one transformer on real patient data, as real processes on this machine.

The demo types the commands that four institutions and a coordinator would type, watches what the programs say of
themselves, and then reads each hospital's own folder, as only that hospital could, to say what came out.
"""

import importlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from federation.demo_baselines import Baselines, run_baselines
from federation.demo_results import collect
from federation.demo_view import View
from federation.heart.hospitals import HOSPITALS, job_file, model_folder, write_hospital
from federation.jobs import prepare
from federation.local import BudgetSetting, LocalFederation, SiloSetting, local_federation
from federation.processes import require_command
from federation.report import write_report

MODEL = "all-minilm-l6-v2"
POPULATION = "cardiology-patients"
LIFETIME_EPSILON = 3.0
JOB_EPSILON = 2.0
DELTA = 1e-3
JOB_S = 420.0


@dataclass(frozen=True)
class Ran:
    """A finished job and what it was."""

    federation: LocalFederation
    job: str
    prepared: Path
    baselines: Baselines
    started_s: float  # time.monotonic() at the demo's start


def demo(folder: Path, *, as_json: bool) -> None:
    """Run it and print what came out: a table and a line each about the aggregator and the ledgers, or one JSON object.

    Raises ConfigError when the folder is not empty or a part of the installation is missing; an error of its exit
    code's family, quoting its log, when a program ended.
    """
    require_command()
    started_s = time.monotonic()
    view = View(sys.stderr)
    with local_federation(folder, "demo", view.note) as federation:
        found = collect(_run(federation, view, started_s), view.note)
    report = folder / "report.html"
    found["report_path"] = str(report)
    found["seconds"] = round(time.monotonic() - started_s, 1)
    write_report(report, found)
    if as_json:
        print(json.dumps(found))  # noqa: T201 - the command's result
    else:
        view.results(found, sys.stdout)


def unused_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist, so that the demo can be run again."""
    names = (wanted if i == 1 else wanted.with_name(f"{wanted.name}-{i}") for i in count(1))
    return next(path for path in names if not path.exists())


def _run(federation: LocalFederation, view: View, started_s: float) -> Ran:
    threading.Thread(target=_load_libraries, daemon=True).start()
    federation.start_aggregator()
    federation.enrol([_hospital(federation.folder, name) for name in HOSPITALS])
    prepared = federation.folder / "job"
    with ThreadPoolExecutor(1) as pool:
        federation.start_silos()
        view.note("planning the job: pinning the model, making the starting adapter")
        prepare(job_file(), prepared, federation.membership(), model_folder=model_folder())
        job = federation.submit(prepared)
        view.note(f"job {job[:12]} submitted; each hospital's policy checks what it would cost")
        beside = pool.submit(run_baselines, prepared, federation.folder / "hospitals", view.note)
        with view.live(federation, job) as refresh:
            federation.wait_for_job(JOB_S, refresh)
        if not beside.done():
            view.note("the job is done; the baselines, trained beside it without privacy, take a little longer")
        return Ran(federation, job, prepared, beside.result(), started_s)


def _load_libraries() -> None:
    """What planning and the baselines need takes seconds to import: begin while the federation is set up."""
    with suppress(ImportError):  # who needs it imports it again, and says so
        importlib.import_module("silo_agent.planning")


def _hospital(folder: Path, name: str) -> SiloSetting:
    return SiloSetting(
        name=name,
        dataset=write_hospital(name, folder / "hospitals" / name),
        budget=BudgetSetting(POPULATION, LIFETIME_EPSILON, DELTA),
        model_folders={MODEL: model_folder()},
        policy={"auto_approve": True, "dataset": "heart", "max_epsilon_per_job": JOB_EPSILON},
    )
