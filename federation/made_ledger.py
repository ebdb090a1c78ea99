"""A made-up ledger of any length: every entry true by the rules that an auditor checks, and nothing ever ran.

Four populations, each with one job after the other; a job has ROUNDS rounds under one of eight mechanisms, and a round
is four entries: reserve, commit, release, round. The four populations' jobs run side by side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

from certs.times import utc_text
from privacy.accounting import dp_sgd_event
from privacy.budget import BudgetPolicy, BudgetState, RoundKey, commit, first_budget, grant, reserve, what_if
from privacy.ledger.entry import (
    CommitEntry,
    Entry,
    JobApprovalEntry,
    PolicyEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundEntry,
)
from privacy.ledger.parts import Balance, Charge, mechanism_of
from privacy.mechanism import DpSgd

INSTITUTION = "hospital-a"
POPULATIONS = ("cardiology", "dermatology", "neurology", "radiology")
MECHANISMS = 8
ROUNDS = 250
DELTA = 1e-5
SOFTWARE = "cloister, made up"
START = datetime(2026, 1, 1, tzinfo=UTC)
ROUND_TAKES = timedelta(minutes=2)
AGENT: dict[str, Any] = {"institution": INSTITUTION, "actor": "cloister-agent", "role": "agent"}
STEWARD: dict[str, Any] = {"institution": INSTITUTION, "actor": "steward", "role": "steward"}


@dataclass
class _Population:
    """Where one population stands."""

    state: BudgetState
    jobs: int = 0
    rounds: int = 0  # of the current job
    job: str = ""
    dp: DpSgd | None = None


def made_entries() -> Iterator[Entry]:
    """Entries without end (about 10 million are within the budgets), to be appended in this order."""
    populations = []
    for name in POPULATIONS:
        policy = BudgetPolicy(name, 1000.0, DELTA, "patient")
        yield _policy(policy)
        populations.append(_Population(first_budget(None, policy)))
    number = 0
    while True:
        for population in populations:
            now = utc_text(START + number * ROUND_TAKES)
            if population.rounds % ROUNDS == 0:
                yield _next_job(population, now)
            yield from _round(population, number, now)
            number += 1


def _policy(policy: BudgetPolicy) -> PolicyEntry:
    return PolicyEntry(
        **STEWARD,
        utc=utc_text(START),
        population=policy.population,
        unit=policy.unit,
        contribution_bound=1,
        epsilon=policy.epsilon,
        delta=policy.delta,
        legal_basis="none: made up",
        dpia=None,
        reason="first budget",
    )


def _mechanism(number: int) -> DpSgd:
    return DpSgd(
        clip_l2=1.0,
        noise_multiplier=4.0 + number / 8,
        sampling_rate=0.01,
        steps_per_round=5,
        expected_batch_size=50.0,
        unit="patient",
        delta=DELTA,
    )


@lru_cache(MECHANISMS)
def _charge(noise_multiplier: float) -> Charge:
    dp = _mechanism(0).model_copy(update={"noise_multiplier": noise_multiplier})
    return Charge.of(dp_sgd_event(dp, dp.steps_per_round), DELTA)


def _next_job(population: _Population, now: str) -> JobApprovalEntry:
    state = population.state
    population.job = _digest(state.policy.population, population.jobs)
    population.dp = _mechanism(population.jobs % MECHANISMS)
    population.jobs += 1
    charge = _charge(population.dp.noise_multiplier)
    entry = JobApprovalEntry(
        **STEWARD,
        utc=now,
        job=population.job,
        automatic=False,
        purpose="a benchmark",
        population=state.policy.population,
        rounds=ROUNDS,
        charge=charge,
        epsilon_after=what_if(state, charge.rdp, ROUNDS).epsilon_after,
        legal_basis=None,
        dpia=None,
        reason="made up",
    )
    population.state = grant(state, population.job, charge.rdp, ROUNDS, "a benchmark")
    return entry


def _round(population: _Population, number: int, now: str) -> Iterator[Entry]:
    assert population.dp is not None  # noqa: S101 - a job comes first
    population.rounds += 1
    about: dict[str, Any] = {**AGENT, "utc": now, "job": population.job, "round": population.rounds % ROUNDS + 1}
    name, key = population.state.policy.population, RoundKey(population.job, population.rounds % ROUNDS + 1)
    mechanism, charge = mechanism_of(population.dp), _charge(population.dp.noise_multiplier)
    costs: dict[str, Any] = {"population": name, "mechanism": mechanism, "charge": charge, "software": SOFTWARE}
    population.state = reserve(population.state, key, charge.rdp)
    yield ReserveEntry(
        **about,
        **costs,
        purpose="a benchmark",
        dataset="made-up",
        unit="patient",
        contribution_bound=1,
        balance=Balance.of(population.state),
        model_sha256=_digest("model", 0),
        adapter_sha256=_digest("adapter", number),
    )
    population.state = commit(population.state, key, charge.rdp)
    yield CommitEntry(
        **about,
        **costs,
        outcome="executed",
        steps_executed=population.dp.steps_per_round,
        sampler="poisson-chacha20",
        precision="float32",
        rng="os-entropy chacha20",
        balance=Balance.of(population.state),
        ciphertext_sha256=_digest("ciphertext", number),
    )
    yield ReleaseEntry(
        **about, population=name, ciphertext_sha256=_digest("ciphertext", number), recipient="aggregator"
    )
    yield RoundEntry(
        **about,
        outcome="published",
        members=(INSTITUTION, "hospital-b", "hospital-c", "hospital-d"),
        transcript_sha256=_digest("transcript", number),
        sum_sha256=_digest("sum", number),
        adapter_before_sha256=_digest("adapter", number),
        adapter_after_sha256=_digest("adapter", number + 1),
        reason=None,
    )


def _digest(what: str, number: int) -> str:
    return sha256(f"{what} {number}".encode()).hexdigest()
