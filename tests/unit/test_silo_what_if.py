"""What `budget what-if` says of a job file: its share of a lifetime, and what its noise does to made-up data."""

from pathlib import Path

import pytest

from privacy.accounting import rdp_vector, round_event
from privacy.budget import RoundKey, grant, reserve
from privacy.errors import ExitCode
from privacy.mechanism import DpSgd
from runtime.config import load_config
from runtime.console import run
from silo_agent import cli, made_up
from silo_agent.accounts import change_budget
from silo_agent.display import budgets_lines
from silo_agent.home import Home
from silo_agent.job_file import JobFile
from silo_agent.made_up import MadeUp, utility
from silo_agent.planning import fix_mechanism
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


def test_shares_are_of_the_epsilon_that_budget_show_counts(silo, capsys):
    """A job that is a small part of the rounds that fit, and a quarter of the lifetime: the figure is a quarter."""
    said = asked(silo, capsys, options=["--no-synthetic"])
    assert "patients: heart fits\n" in said
    assert "[#######.......................] 25% of a lifetime would be spent or reserved; now it is 0%\n" in said
    assert "5 rounds would bring epsilon from 0 to 2 of 8 at delta 0.001\n" in said
    assert "52 such rounds still fit, and these are 5 of them\n" in said
    vector = rdp_vector(round_event(fix_mechanism(load_config(JobFile, silo.folder / "job.toml", "", {})), 2))
    before = silo.budget
    with Home.open(silo.folder, {}).store.writing() as tx:
        job = silo.job.hex()
        change_budget(tx.connection, "patients", lambda budget: grant(budget, job, vector, 5, "the same"))
        for number in range(5):
            change_budget(tx.connection, "patients", lambda b, n=number: reserve(b, RoundKey(job, n), vector))
    assert before.charged_epsilon == 0
    assert run(cli.app, ["budget", "show", "--state", str(silo.folder)]) == 0
    assert "[#######.......................] 25% of a lifetime is spent or reserved\n" in capsys.readouterr().out
    assert "now it is 25%\n" in asked(silo, capsys, options=["--no-synthetic"])


@pytest.mark.parametrize(
    ("spent", "said"), [(0.0, " 0% of"), (0.001, "less than 1% of"), (1.99, "more than 99% of"), (2.0, " 100% of")]
)
def test_a_share_is_nothing_or_all_only_if_it_is(spent, said):
    row = {"population": "p", "unit": "record", "delta": 1e-3, "epsilon_cap": 2.0, "rounds_charged": 1, "left": 0.0}
    row |= {"job_cap": None, "purposes": [], "reserved": 0.0, "rounds_refunded": 0, "spent": spent}
    assert said in budgets_lines([row])[1]


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
    monkeypatch.setattr(made_up, "MOST_GRADIENTS", 950)
    dp = mechanism(100.0, 1.0, 1.0).model_copy(update={"steps_per_round": 2})
    found = utility(task(100, rounds=3), dp)
    assert (found.rounds_run, found.steps_run) == (1, 2), "three steps of three silos, two classes: 936 gradients' time"
    found = utility(task(100, rounds=3), dp.model_copy(update={"steps_per_round": 100_000}))
    assert (found.rounds_run, found.steps_run) == (1, 3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            [("steps_per_round = 2", "steps_per_round = 1_000_001")],
            "dp.steps_per_round is 1000001: Input should be less",
        ),
        (
            [("steps_per_round = 2", "steps_per_round = 300_000")],
            "dp.steps_per_round is 300000: with rounds = 5 these are 1500000 steps in all, and noise for an epsilon is"
            " found for at most 1000000",
        ),
        ([("epsilon = 2.0", "noise_multiplier = 0.001")], "dp.noise_multiplier is 0.001: Input should be greater"),
        (
            [("[cohort]", "[metrics]\nnoise_multiplier = 1e9\n[cohort]")],
            "metrics.noise_multiplier is 1000000000.0: Input should be less than or equal to 1000000",
        ),
        (
            [("sampling_rate = 0.5", "sampling_rate = 1e-12")],
            "dp.expected_batch_size is 60: at sampling_rate = 1e-12 it takes a dataset of more than 1e+12 records",
        ),
        (
            [("minimum = 3", "minimum = 1_000_000_000")],
            "cohort.minimum is 1000000000: Input should be less than or equal",
        ),
        (
            [("high = 80", "high = 1e30")],
            "low is 25 and high is 1e+30: with 0 decimals they may be at most 1e+15 apart",
        ),
    ],
)
def test_a_value_out_of_range_is_the_job_file_s_fault(silo, capsys, changes, complaint):
    """With its key, the value and the bound; it was a bug, or hours of work."""
    assert what_if(silo, *changes) == ExitCode.CONFIG
    assert complaint in capsys.readouterr().err
