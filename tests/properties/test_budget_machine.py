"""The budget as a state machine: whatever is tried in whatever order, the promises hold."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from privacy.accounting import (
    ORDERS,
    ZERO,
    Gaussian,
    PoissonSampled,
    SelfComposed,
    add,
    rdp_epsilon,
    rdp_vector,
    times,
)
from privacy.budget import BudgetPolicy, RoundKey, commit, first_budget, grant, refund, reserve, what_if, withdraw
from privacy.budget_change import change_epsilon, change_sub_cap
from privacy.errors import InternalError, Refused

MECHANISMS = tuple(
    rdp_vector(
        SelfComposed(count=steps, event=PoissonSampled(sampling_probability=q, event=Gaussian(noise_multiplier=sigma)))
    )
    for sigma, q, steps in ((3.0, 0.5, 1), (6.0, 0.5, 5), (1.0, 0.01, 50), (20.0, 1.0, 3), (0.7, 0.001, 400))
)
JOBS = {f"{i:02x}" * 32: vector for i, vector in enumerate(MECHANISMS)}
GRANTED = 4
PURPOSES = ("heart disease", "readmission")
PURPOSE_OF = {job: PURPOSES[i % 2] for i, job in enumerate(JOBS)}
EPSILONS = st.sampled_from([0.05, 0.5, 1.0, 2.0, 2.5, 4.0])
KEYS = st.builds(RoundKey, st.sampled_from(sorted(JOBS)), st.integers(0, 6))


class Budget(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = first_budget(None, BudgetPolicy("ward", 2.5, 1e-4, "record"))
        self.ever_closed: set[RoundKey] = set()
        self.reserved_of: dict[str, set[RoundKey]] = {job: set() for job in JOBS}
        self.spent_before = self.state.committed
        self.committed_of: dict[RoundKey, tuple[float, ...]] = {}

    @rule(job=st.sampled_from(sorted(JOBS)))
    def approving(self, job: str) -> None:
        before, fits = self.state, what_if(self.state, JOBS[job], GRANTED).fits
        within = self._within_sub_caps(job, GRANTED)
        try:
            self.state = grant(before, job, JOBS[job], GRANTED, PURPOSE_OF[job])
        except Refused:
            assert job in before.grants or not fits or not within
        else:
            assert fits
            assert within
            self.reserved_of[job] = {key for key in before.reserved if key.job == job}

    @rule(job=st.sampled_from(sorted(JOBS)))
    def refusing(self, job: str) -> None:
        before = self.state
        self.state = withdraw(before, job)
        assert self.state.total == before.total
        assert self.state.reserved == before.reserved

    @rule(epsilon=EPSILONS)
    def changing_the_cap(self, epsilon: float) -> None:
        before = self.state
        try:
            self.state = change_epsilon(before, epsilon)
        except Refused:
            assert epsilon == before.policy.epsilon or epsilon < before.charged_epsilon + 1e-9 or self._over(epsilon)
        assert self.state.committed == before.committed
        assert self.state.reserved == before.reserved
        assert self.state.filter_order == before.filter_order

    @rule(purpose=st.sampled_from([None, *PURPOSES]), epsilon=st.none() | EPSILONS)
    def changing_a_sub_cap(self, purpose: str | None, epsilon: float | None) -> None:
        before = self.state
        try:
            self.state = change_sub_cap(before, purpose, epsilon)
        except Refused:
            assert self.state is before
        else:
            assert self.state.sub_caps.of(purpose) == epsilon
            assert self.state.total == before.total

    def _over(self, epsilon: float) -> bool:
        """Whether what is charged is over this cap, at the order of the filter."""
        assert self.state.filter_order is not None
        index, policy = ORDERS.index(self.state.filter_order), replace(self.state.policy, epsilon=epsilon)
        return self.state.total[index] > policy.caps[index]

    def _within_sub_caps(self, job: str, rounds: int) -> bool:
        """By another way than the code: every round of the job, and of its purpose, once more."""
        caps, delta, more = self.state.sub_caps, self.state.policy.delta, times(JOBS[job], rounds)
        of_purpose = [other for other in JOBS if PURPOSE_OF[other] == PURPOSE_OF[job]]
        own, all_ = self._charged({job}), self._charged(set(of_purpose))
        limits = [(caps.per_job, own), (caps.purposes.get(PURPOSE_OF[job]), all_)]
        return all(cap is None or rdp_epsilon(add(total, more), delta) <= cap for cap, total in limits)

    def _charged(self, jobs: set[str]) -> tuple[float, ...]:
        total = ZERO
        for vector in [v for k, v in self.committed_of.items() if k.job in jobs]:
            total = add(total, vector)
        for vector in [v for k, v in self.state.reserved.items() if k.job in jobs]:
            total = add(total, vector)
        return total

    @rule(key=KEYS, vector=st.sampled_from(MECHANISMS))
    def reserving_anything(self, key: RoundKey, vector: tuple[float, ...]) -> None:
        self._reserve(key, vector)

    @rule(key=KEYS)
    def reserving(self, key: RoundKey) -> None:
        self._reserve(key, JOBS[key.job])

    def _reserve(self, key: RoundKey, vector: tuple[float, ...]) -> None:
        before, promised = self.state, what_if(self.state, vector, 1).fits
        approved = key.job in before.grants and JOBS[key.job] == vector and before.rounds_left(key.job) > 0
        promised = promised and (not approved or self._within_sub_caps(key.job, 1))
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
        self.committed_of[key] = vector
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
    def accounts_add_up_to_what_is_committed(self) -> None:
        for purpose in PURPOSES:
            jobs = {job for job in JOBS if PURPOSE_OF[job] == purpose}
            expected = rdp_epsilon(self._charged(jobs), self.state.policy.delta)
            assert self.state.purpose_epsilon(purpose) == expected

        for job in JOBS:
            assert self.state.of_job(job) == self._charged({job})

    @invariant()
    def a_state_is_what_its_fields_say(self) -> None:
        """What functions carry over from the state before is what it comes to when it is added up anew."""
        again = replace(self.state)
        assert (again, again.total) == (self.state, self.state.total)
        assert again.__dict__.keys() == self.state.__dict__.keys()

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
