"""Whatever comes, in whatever order: the machines stay inside their tables; each commit has fewer members."""

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import round as rounds
from aggregator import round_states as states
from aggregator.round_events import (
    CommitSum,
    DeadlinePassed,
    JobClosed,
    ReportAborted,
    ReportBroken,
    ReportPublished,
    Restarted,
    RoundJoined,
    SiloApplied,
    SiloConsented,
    SiloFingerprinted,
    SiloWithdrew,
    UpdateStored,
)
from privacy.errors import ProtocolError
from tests.parties import Cohort

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLAN = Cohort("a", "b", "c").plan
SILOS = st.sampled_from(("a", "b", "c", "stranger"))
ADAPTERS = st.sampled_from((b"x" * 32, b"x" * 32, b"x" * 32, b"y" * 32))
EVENTS = st.one_of(
    *(SILOS.map(kind) for kind in (RoundJoined, UpdateStored, SiloWithdrew, SiloConsented)),
    st.builds(SiloApplied, SILOS, ADAPTERS),
    st.builds(SiloFingerprinted, SILOS, st.booleans()),
    st.sampled_from([DeadlinePassed(), JobClosed("over"), Restarted(1.0)]),
)
STEPS = st.lists(st.tuples(EVENTS, st.sampled_from((0.0, 1.0, 61.0))), max_size=60)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans())
def test_any_sequence(steps, joined: bool) -> None:
    state: states.RoundState = rounds.announce(PLAN, 1, ("a", "b", "c"), NOW)
    if joined:  # else few examples would come to collect anything
        state = states.Collecting(state.terms, state.deadline_utc)
    now, outcomes = NOW, 0
    commits: list[CommitSum] = []
    for event, seconds in steps:
        now += timedelta(seconds=seconds)
        before = state
        try:
            state, actions = rounds.step(before, event, now)
        except ProtocolError:
            continue
        key = (type(before).__name__, type(event).__name__)
        assert type(state).__name__ in rounds.TABLE[key]
        commits += [action for action in actions if isinstance(action, CommitSum)]
        closing = [a for a in actions if isinstance(a, ReportAborted | ReportPublished | ReportBroken)]
        if not isinstance(before, states.Published):  # a late disagreement is reported again, and only that
            outcomes += len(closing)
        if isinstance(state, states.Fingerprinting | states.Committed | states.Releasing | states.Published):
            assert state.members == commits[-1].members
            assert len(state.members) >= state.terms.minimum
        if isinstance(state, states.Releasing):
            assert len(state.consented) >= state.terms.threshold
        if isinstance(before, states.Published | states.Aborted):
            assert type(state) is type(before)
    assert [commit.attempt for commit in commits] == list(range(1, len(commits) + 1))
    for earlier, later in itertools.pairwise(commits):
        assert set(later.members) < set(earlier.members)
    assert outcomes == (0 if isinstance(state, states.OPEN_ROUND) else 1)
