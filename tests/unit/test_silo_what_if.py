"""What `budget what-if` says of a job file: the made-up data that stand for large silos."""

from pathlib import Path

import pytest

from privacy.mechanism import DpSgd
from runtime.console import run
from silo_agent import cli, made_up
from silo_agent.made_up import MadeUp, utility
from tests.lone_silo import LoneSilo

HEART = (Path(__file__).parents[2] / "federation/heart/job.toml").read_text(encoding="utf-8")


@pytest.fixture
def silo(tmp_path):
    silo = LoneSilo(tmp_path / "silo", charged=True, approved=False)
    silo.home.store.close()
    return silo


def what_if(silo, *changes, options=()):
    """Run `what-if` on the demo's job file with some lines changed; the exit code."""
    text = HEART
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = silo.folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return run(cli.app, ["budget", "what-if", str(path), *options, "--state", str(silo.folder)])


def asked(silo, capsys, *changes, options=()):
    assert what_if(silo, *changes, options=options) == 0
    return capsys.readouterr().out


def mechanism(batch, rate, sigma, **more):
    return DpSgd(
        clip_l2=1.0, noise_multiplier=sigma, sampling_rate=rate, steps_per_round=1, expected_batch_size=batch,
        unit="record", delta=1e-5, **more,
    )  # fmt: skip


def task(records, rounds=50, silos=3):
    return MadeUp(silos=silos, records=records, classes=2, rounds=rounds, learning_rate=1.0)


def test_a_large_silo_s_noise_meets_the_job_s_batch():
    """A batch of 40 out of 200,000 records takes the noise as one out of 4,000 does."""
    small, large = (utility(task(round(40 / rate)), mechanism(40.0, rate, 1.0)) for rate in (0.01, 0.0002))
    assert (small.records_run, large.records_run, large.batch_run) == (4000, made_up.MOST_RECORDS, 40.0)
    assert large.without_noise == pytest.approx(small.without_noise, abs=0.02)
    assert large.with_noise == pytest.approx(small.with_noise, abs=0.02)


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_a_batch_larger_than_the_made_up_silo_is_stood_for_by_all_of_it(monkeypatch, noise):
    """The noise in the mean gradient stays what it is in the job: it takes as much accuracy."""
    shares = {} if noise == "local" else {"noise": noise, "noise_shares": 3}
    dp = mechanism(4000.0, 0.8, 800.0, **shares)
    whole = utility(task(5000, rounds=20), dp)
    monkeypatch.setattr(made_up, "MOST_RECORDS", 1000)
    part = utility(task(5000, rounds=20), dp)
    assert (whole.batch_run, part.batch_run, part.records_run) == (4000.0, 1000.0, 1000)
    assert whole.with_noise < whole.without_noise - 0.05, "noise that can be seen"
    assert part.with_noise == pytest.approx(whole.with_noise, abs=0.03)


def test_what_was_run_for_a_job_is_said(silo, capsys, monkeypatch):
    assert "3 silos of 120 records, 2 classes" in asked(silo, capsys)
    large = asked(silo, capsys, ("sampling_rate = 0.5", "sampling_rate = 0.0003"))
    assert "on made-up data: 3 silos of 5,000 records that stand for 200,000, 2 classes, a linear model\n" in large
    assert "batches of 60 as in the job\n" in large
    assert "were run" not in large
    monkeypatch.setattr(made_up, "MOST_RECORDS", 50)
    monkeypatch.setattr(made_up, "MOST_STEPS", 7)
    cut = asked(silo, capsys)
    assert "3 silos of 50 records that stand for 120" in cut
    assert "batches of 50 for 60 in the job, with as much less noise\n" in cut
    assert "3 rounds of 2 steps were run, for 5 of 2 in the job: more takes long\n" in cut


def test_what_would_take_long_is_cut_short(monkeypatch):
    monkeypatch.setattr(made_up, "MOST_GRADIENTS", 900)
    dp = mechanism(100.0, 1.0, 1.0).model_copy(update={"steps_per_round": 2})
    found = utility(task(100, rounds=3), dp)
    assert (found.rounds_run, found.steps_run) == (1, 2), "three steps of three silos"
    found = utility(task(100, rounds=3), dp.model_copy(update={"steps_per_round": 100_000}))
    assert (found.rounds_run, found.steps_run) == (1, 3)
