"""What a job from a file would cost this silo, and its noise in accuracy. Nothing is planned or reserved."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from privacy.suites import usual_suite, usual_tolerance
from runtime.config import read_toml, validated
from silo_agent.accounts import all_budgets
from silo_agent.budget_view import cost_rows
from silo_agent.home import Home
from silo_agent.job_file import JobFile
from silo_agent.made_up import MadeUp, utility

NO_JOB = "0" * 64  # a plan's digest that no job has


def what_if_of(home: Home, job_file: Path, *, synthetic: bool) -> dict[str, Any]:
    """One row per population, and what the synthetic run measured. Raises ConfigError for a job file that is wrong."""
    from silo_agent.planning import fix_mechanism

    job = validated(JobFile, read_toml(job_file, "job file"), f"job file {job_file}")
    dp = fix_mechanism(job, _honest(job))
    with home.store.reading() as connection:
        rows = cost_rows(all_budgets(connection), NO_JOB, job.purpose, dp, job.rounds)
    found: dict[str, Any] = {"name": job.name, "purpose": job.purpose, "noise_multiplier": dp.noise_multiplier}
    found |= {"rounds": job.rounds, "unit": dp.unit, "delta": dp.delta, "budgets": rows, "synthetic": None}
    if synthetic:
        task = MadeUp(
            silos=job.cohort.minimum,
            records=max(1, round(dp.expected_batch_size / dp.sampling_rate)),
            classes=max(2, len(job.task.labels)),
            rounds=job.rounds,
            learning_rate=job.adapter.head_learning_rate or job.adapter.body_learning_rate or 0.1,
        )
        sizes = {"expected_batch_size": dp.expected_batch_size, "steps_per_round": dp.steps_per_round}
        found["synthetic"] = {**asdict(task), **sizes, **asdict(utility(task, dp))}
    return found


def _honest(job: JobFile) -> int:
    """How many honest members the smallest sum has, as far as the job file says; the roster may allow for more."""
    least = job.cohort.minimum
    usual = usual_tolerance(job.suite or usual_suite(least), least)
    return least - (usual if job.cohort.tolerated_colluders is None else job.cohort.tolerated_colluders)
