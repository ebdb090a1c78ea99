"""The budget as a state machine: whatever is tried in whatever order, the promises hold."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from privacy.accounting import ORDERS, Gaussian, PoissonSampled, SelfComposed, rdp_vector
from privacy.budget import BudgetPolicy, RoundKey, commit, first_budget, grant, refund, reserve, what_if, withdraw
from privacy.errors import InternalError, Refused

MECHANISMS = tuple(
    rdp_vector(
        SelfComposed(count=steps, event=PoissonSampled(sampling_probability=q, event=Gaussian(noise_multiplier=sigma)))
    )
    for sigma, q, steps in ((3.0, 0.5, 1), (6.0, 0.5, 5), (1.0, 0.01, 50), (20.0, 1.0, 3), (0.7, 0.001, 400))
)
JOBS = {f"{i:02x}" * 32: vector for i, vector in enumerate(MECHANISMS)}
GRANTED = 4
PURPOSE = "heart disease"
KEYS = st.builds(RoundKey, st.sampled_from(sorted(JOBS)), st.integers(0, 6))


class Budget(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = first_budget(None, BudgetPolicy("ward", 2.5, 1e-4, "record"))
        self.ever_closed: set[RoundKey] = set()
        self.reserved_of: dict[str, set[RoundKey]] = {job: set() for job in JOBS}
        self.spent_before = self.state.committed

    @rule(job=st.sampled_from(sorted(JOBS)))
    def approving(self, job: str) -> None:
        before, fits = self.state, what_if(self.state, JOBS[job], GRANTED).fits
        try:
            self.state = grant(before, job, JOBS[job], GRANTED, PURPOSE)
        except Refused:
            assert job in before.grants or not fits
        else:
            assert fits
            self.reserved_of[job] = {key for key in before.reserved if key.job == job}

    @rule(job=st.sampled_from(sorted(JOBS)))
    def refusing(self, job: str) -> None:
        before = self.state
        self.state = withdraw(before, job)
        assert self.state.total == before.total
        assert self.state.reserved == before.reserved

    @rule(key=KEYS, vector=st.sampled_from(MECHANISMS))
    def reserving_anything(self, key: RoundKey, vector: tuple[float, ...]) -> None:
        self._reserve(key, vector)

    @rule(key=KEYS)
    def reserving(self, key: RoundKey) -> None:
        self._reserve(key, JOBS[key.job])

    def _reserve(self, key: RoundKey, vector: tuple[float, ...]) -> None:
        before, promised = self.state, what_if(self.state, vector, 1).fits
        approved = key.job in before.grants and JOBS[key.job] == vector and before.rounds_left(key.job) > 0
        try:
            self.state = reserve(before, key, vector)
        except Refused:
            assert key in self.ever_closed or key in before.reserved or not promised or not approved
            assert self.state is before
        else:
            assert key not in self.ever_closed
            assert (promised and approved) or before.reserved.get(key) == vector
            self.reserved_of[key.job].add(key)

    @precondition(lambda self: self.state.reserved)
    @rule(data=st.data(), vector=st.sampled_from(MECHANISMS))
    def committing(self, data: st.DataObject, vector: tuple[float, ...]) -> None:
        key = data.draw(st.sampled_from(sorted(self.state.reserved)))
        held = self.state.reserved[key]
        if any(a > b for a, b in zip(vector, held, strict=True)):
            with pytest.raises(InternalError):
                commit(self.state, key, vector)
            vector = held
        self.state = commit(self.state, key, vector)
        self.ever_closed.add(key)

    @precondition(lambda self: self.state.reserved)
    @rule(data=st.data())
    def refunding(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.state.reserved)))
        self.state = refund(self.state, key)
        self.reserved_of[key.job].discard(key)
        self.ever_closed.add(key)

    @rule(key=KEYS)
    def closing_what_is_not_reserved(self, key: RoundKey) -> None:
        if key not in self.state.reserved:
            with pytest.raises(InternalError):
                commit(self.state, key, MECHANISMS[0])
            with pytest.raises(InternalError):
                refund(self.state, key)

    @invariant()
    def spent_never_falls(self) -> None:
        assert all(a >= b for a, b in zip(self.state.committed, self.spent_before, strict=True))
        self.spent_before = self.state.committed

    @invariant()
    def spent_and_reserved_stay_under_the_cap(self) -> None:
        assert self.state.charged_epsilon <= self.state.policy.epsilon
        if self.state.filter_order is not None:
            index = ORDERS.index(self.state.filter_order)
            assert self.state.total[index] <= self.state.policy.caps[index]

    @invariant()
    def no_job_has_more_rounds_than_it_was_approved_for(self) -> None:
        for job, keys in self.reserved_of.items():
            assert len(keys) <= GRANTED
            assert self.state.rounds_left(job) == (GRANTED - len(keys) if job in self.state.grants else 0)

    @invariant()
    def keys_are_closed_once_and_for_all(self) -> None:
        assert set(self.state.closed) == self.ever_closed
        assert not self.ever_closed & set(self.state.reserved)


TestBudget = Budget.TestCase
TestBudget.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
