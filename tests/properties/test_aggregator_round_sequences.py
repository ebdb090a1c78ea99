"""Whatever comes, in whatever order: the machines stay inside their tables; each commit has fewer members."""

import itertools
from collections import Counter
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
    SiloReleased,
    SiloWithdrew,
    UpdateStored,
)
from privacy.errors import ProtocolError
from tests.parties import Cohort
from tests.scripted import KeyedCohort

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLANS = {False: Cohort("a", "b", "c").plan, True: KeyedCohort("a", "b", "c", "d").plan}
SILOS = st.sampled_from(("a", "b", "c", "d", "stranger"))  # of a group's round, d is another stranger
ADAPTERS = st.sampled_from((b"x" * 32, b"x" * 32, b"x" * 32, b"y" * 32))
EVENTS = st.one_of(
    *(SILOS.map(kind) for kind in (RoundJoined, UpdateStored, SiloWithdrew, SiloConsented, SiloReleased)),
    st.builds(SiloApplied, SILOS, ADAPTERS),
    st.builds(SiloFingerprinted, SILOS, st.booleans(), st.frozensets(st.sampled_from(("a", "b", "d")), max_size=1)),
    st.sampled_from([*[DeadlinePassed(), Restarted(1.0)] * 4, JobClosed("over")]),
)


def _answers(silo: str) -> SiloFingerprinted:
    return SiloFingerprinted(silo, holds=True)


SAID_BY_ALL = st.builds(  # else few examples would come to release anything
    lambda kind, silos: [kind(silo) for silo in silos],
    st.sampled_from((RoundJoined, UpdateStored, _answers, SiloConsented, SiloReleased)),
    st.permutations(("a", "b", "c", "d")),
)
PAUSES = st.sampled_from((*[0.0] * 20, 1.0, 61.0))
STEPS = st.lists(st.tuples(st.one_of(EVENTS.map(lambda event: [event]), SAID_BY_ALL), PAUSES), max_size=40)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from(("announced", "joined", "committed")), st.booleans())
def test_any_sequence(steps, start: str, keyed: bool) -> None:
    plan = PLANS[keyed]
    everybody = tuple(member.name for member in plan.cohort.roster)
    state: states.RoundState = rounds.announce(plan, 1, everybody, NOW)
    now, outcomes = NOW, 0
    commits: list[CommitSum] = []
    if start == "joined":
        state = states.Collecting(state.terms, state.deadline_utc)
    if start == "committed":
        state, commits = states.Committed(state.terms, state.deadline_utc, everybody), [CommitSum(everybody)]
    for event, seconds in ((event, seconds) for events, seconds in steps for event in events):
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
        if isinstance(state, states.Fingerprinting | states.Committed | states.Sharing | states.Releasing):
            assert state.members == commits[-1].members
            assert len(state.members) >= state.terms.minimum
        if isinstance(state, states.Published):
            assert state.members == commits[-1].members
        if isinstance(state, states.Sharing | states.Releasing):
            assert len(state.consented) >= state.terms.threshold
        if isinstance(state, states.Sharing):
            assert len(state.released) < state.terms.threshold
            assert keyed
        if isinstance(state, states.Releasing) and not isinstance(before, states.Releasing):
            assert type(before) is (states.Sharing if keyed else states.Committed)
        if isinstance(state, states.Aborted) and not isinstance(before, states.Aborted):
            assert state.certified is isinstance(before, states.Releasing)
        if isinstance(before, states.Fingerprinting) and isinstance(state, states.Committed):
            named = {**before.unopened, event.silo: event.unopened}.values()
            assert all(count <= state.terms.colluders for count in Counter(itertools.chain(*named)).values())
        if isinstance(before, states.Published | states.Aborted):
            assert type(state) is type(before)
    assert [commit.attempt for commit in commits] == list(range(1, len(commits) + 1))
    for earlier, later in itertools.pairwise(commits):
        assert set(later.members) < set(earlier.members)
    assert outcomes == (0 if isinstance(state, states.OPEN_ROUND) else 1)
