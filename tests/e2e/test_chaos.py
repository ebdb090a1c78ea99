"""The demo's four hospitals, real processes training on real data; each is killed at every step of a round in turn.

What must be left each time: a finished round or a clean abandonment, and in the end one adapter and true ledgers.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from federation.commands import run_command
from federation.demo import DELTA, MODEL, POPULATION
from federation.heart.hospitals import HOSPITALS, job_file, model_folder, write_hospital
from federation.jobs import prepare
from federation.local import BudgetSetting, SiloSetting, latest_adapter, local_federation
from federation.processes import environment

STEPS = (
    "Joined", "SendJoin", "Reserved", "Trained", "Sealed", "SendUpdate", "Submitted", "Fingerprinted",
    "SendFingerprint", "Consented", "SendConsent", "Certified", "Released", "SendRelease", "Unlocked", "Opened",
    "SendApplied", "Applied",
)  # fmt: skip
ROUNDS = 300  # more than a slow machine gets through while one hospital dies at every step
STEP_S = 120.0


def hospital(folder, name):
    return SiloSetting(
        name=name,
        dataset=write_hospital(name, folder / "hospitals" / name),
        budget=BudgetSetting(POPULATION, 100.0, DELTA),
        model_folders={MODEL: model_folder()},
        policy={"auto_approve": True, "dataset": "heart", "max_epsilon_per_job": 20.0},
    )


def long_job(folder):
    path = folder / "job.toml"
    text = job_file().read_text().replace("rounds = 5", f"rounds = {ROUNDS}")
    path.write_text(text.replace("submit_s = 120", "submit_s = 20").replace("_s = 60", "_s = 10"))
    return path


def killed_at(silo, point):
    """Run the silo until it dies there."""
    with silo.daemon.log.open("ab") as log:
        script = Path(__file__).with_name("dying_silo.py")
        command = [sys.executable, str(script), str(silo.state), point]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment())
    try:
        assert process.wait(STEP_S) == -9, f"{silo.name} was not killed at {point}: {silo.daemon.last_lines()}"
    finally:
        if process.poll() is None:
            process.kill()


def settled(federation, job):
    """The job's rounds that are over."""
    return [row for row in federation.rounds(job) if row["phase"] in ("PUBLISHED", "ABORTED")]


def sums_with(victim, federation, job):
    """How many published sums it is in."""
    return len([r for r in settled(federation, job) if r["phase"] == "PUBLISHED" and victim in r["members"]])


def wait(ready, why):
    deadline = time.monotonic() + STEP_S
    while not ready():
        assert time.monotonic() < deadline, why
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("victim", HOSPITALS)
def test_a_hospital_killed_at_every_step_leaves_finished_rounds_and_true_ledgers(victim, tmp_path):
    with local_federation(tmp_path / "demo", "demo", lambda _text: None) as federation:
        federation.start_aggregator()
        federation.enrol([hospital(federation.folder, name) for name in HOSPITALS])
        federation.start_silos()
        (silo,) = (each for each in federation.silos if each.name == victim)
        prepare(long_job(tmp_path), tmp_path / "job", federation.membership(), model_folder=model_folder())
        job = federation.submit(tmp_path / "job")
        wait(lambda: settled(federation, job), "no first round")
        silo.daemon.kill()  # at any moment
        for point in STEPS:
            killed_at(silo, point)
        silo.daemon.start()
        before = sums_with(victim, federation, job)
        wait(lambda: sums_with(victim, federation, job) > before + 1, f"{victim} is in no sum any more")
        federation.command("aggregator", "cancel", job)
        federation.wait_for_job(STEP_S)
        rows = federation.rounds(job)
        assert rows == settled(federation, job), "a round is neither finished nor abandoned"
        assert {latest_adapter(each.state, job)[0] for each in federation.silos} == {
            max(row["round"] for row in rows if row["phase"] == "PUBLISHED")
        }
        assert len({latest_adapter(each.state, job)[1].read_bytes() for each in federation.silos}) == 1
    for each in federation.silos:
        out = tmp_path / f"ledger-{each.name}.zip"
        run_command("ledger", "export", "--state", str(each.state), "--out", str(out))
        ca = federation.state / "ca" / "ca.pem"
        verdict = json.loads(run_command("ledger", "verify", str(out), "--ca", str(ca), "--json"))
        assert verdict["verified"] is True
