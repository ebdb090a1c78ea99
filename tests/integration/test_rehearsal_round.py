"""A rehearsal through the public commands: aggregator and three silos as processes, real TLS, one of them killed."""

import json

import numpy as np
import pytest

from federation.commands import run_command
from federation.jobs import prepare
from federation.local import SiloSetting, local_federation
from federation.processes import wait_until
from privacy.quantise import grid_step
from silo_agent.rehearsal import rehearsal_vector

NAMES = ("east", "north", "west")
VALUES = 20_000
JOB = """
name = "rehearsal"
federation = "rehearsals"
rounds = 3
[rehearsal]
values = 20000
update_range = 1.0
[deadlines]
join_job_s = 120
join_round_s = 20
submit_s = 60
consent_s = 60
apply_s = 60
"""


def logs(federation):
    return "\n".join(daemon.last_lines(40) for daemon in federation.daemons)


@pytest.fixture
def federation(tmp_path):
    with local_federation(tmp_path / "federation", "rehearsals", lambda _: None) as federation:
        federation.start_aggregator()
        policy = {"rehearsals": True}
        federation.enrol([SiloSetting("east"), *(SiloSetting(name, policy=policy) for name in NAMES[1:])])
        federation.start_silos()
        yield federation


def test_three_silos_one_approved_by_hand_one_killed_end_with_the_exact_mean(federation, tmp_path):
    (tmp_path / "job.toml").write_text(JOB)
    plan = prepare(tmp_path / "job.toml", tmp_path / "job", federation.membership())
    job = federation.submit(tmp_path / "job")
    east, _, west = federation.silos
    listed = lambda: json.loads(east.command("silo", "jobs", "--json"))["jobs"]  # noqa: E731 - a question, asked twice
    wait_until(lambda: bool(listed()), what="the job", timeout_s=60, daemons=federation.daemons)
    assert "policy.rehearsals is off" in listed()[0]["why"]
    east.command("silo", "approve", "rehearsal")
    wait_until(lambda: bool(west.timings()), what="a round", timeout_s=60, daemons=federation.daemons)
    west.daemon.kill()
    west.daemon.start()
    federation.wait_for_job(120)
    assert {silo.status()["job_phase"] for silo in federation.silos} == {"FINISHED"}, logs(federation)
    published = [row for row in federation.rounds(job) if row["phase"] == "PUBLISHED"]
    assert len(published) == 3
    exact = np.zeros(VALUES)
    for row in published:
        sent = [rehearsal_vector(name, plan.digest(), row["round"], VALUES, 1.0) for name in row["members"]]
        exact += np.mean(sent, axis=0)
    for silo in federation.silos:
        adapter = np.fromfile(silo.state / "artifacts" / job / f"adapter-{published[-1]['round']}.f32", "<f4")
        assert np.abs(adapter - exact).max() <= 3 * grid_step(1.0, 16)
        assert not (silo.state / "vault" / job).exists()
        exported = tmp_path / f"ledger-{silo.name}.zip"
        silo.command("ledger", "export", "--out", str(exported))
        ca = str(federation.state / "ca" / "ca.pem")
        assert json.loads(run_command("ledger", "verify", str(exported), "--ca", ca, "--json"))["verified"]
    assert "bytes of sealed updates" in east.command("silo", "status")
