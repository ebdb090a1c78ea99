"""What is carried from state to state, and what is moved on in place, is what it comes to when it is added up anew."""

import re
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from privacy.accounting import UNBOUNDED, ZERO, Gaussian, SelfComposed, add, rdp_vector
from privacy.budget import BudgetPolicy, BudgetState, RoundKey, commit, first_budget, grant, refund, reserve, withdraw
from privacy.budget_change import change_epsilon, change_sub_cap
from privacy.errors import InternalError, Refused
from privacy.running_budget import first_running
from privacy.sub_caps import Account

FULL, LESS = (rdp_vector(SelfComposed(count=n, event=Gaussian(noise_multiplier=0.2))) for n in (2, 1))
JOBS = ("ab" * 32, "cd" * 32)
MOVES = ("reserve", "reserve", "commit", "commit less", "commit more", "refund", "withdraw", "grant", "cap", "sub-cap")
STEPS = st.lists(st.tuples(st.sampled_from(MOVES), st.sampled_from(JOBS), st.integers(0, 5)), max_size=40)


def move(state: BudgetState, what: str, job: str, number: int) -> BudgetState:
    key = RoundKey(job, number)
    done: dict[str, Callable[[], BudgetState]] = {
        "reserve": lambda: reserve(state, key, FULL),
        "commit": lambda: commit(state, key, FULL),
        "commit less": lambda: commit(state, key, LESS),
        "commit more": lambda: commit(state, key, add(FULL, LESS)),
        "refund": lambda: refund(state, key),
        "withdraw": lambda: withdraw(state, job),
        "grant": lambda: grant(state, job, FULL, 4, f"for {job[:2]}"),
        "cap": lambda: change_epsilon(state, 1000.0 - number),
        "sub-cap": lambda: change_sub_cap(state, None, 900.0 - number),
    }
    return done[what]()


def of(state: BudgetState) -> dict[str, object]:
    values = {each.name: getattr(state, each.name) for each in fields(state)}
    return {name: dict(value) if isinstance(value, Map | dict) else value for name, value in values.items()}


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_done(steps: list[tuple[str, str, int]]) -> None:
    policy = BudgetPolicy("ward", 1000.0, 1e-4, "record")
    state: BudgetState = first_budget(None, policy)
    running: BudgetState = first_running(None, policy)
    for job in JOBS:
        state, running = move(state, "grant", job, 0), move(running, "grant", job, 0)
    for step in steps:
        before = of(running)
        try:
            state = move(state, *step)
        except (Refused, InternalError) as error:
            with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
                move(running, *step)
            assert of(running) == before
        else:
            running = move(running, *step)
        again = replace(state)
        assert (again, again.total, again.__dict__.keys()) == (state, state.total, state.__dict__.keys())
        assert of(running) == of(state)
        assert add(*(state.accounts[job].committed for job in JOBS)) == state.committed


def test_a_job_s_charges_are_their_sum() -> None:
    """Also beyond the largest figure, where sums are cut off."""
    account, total = Account("heart disease"), ZERO
    for vector in [FULL] * 3 + [LESS] * 6000 + [FULL]:
        account, total = account.charged(vector), add(total, vector)
    assert account.committed == total
    assert max(total) == UNBOUNDED
