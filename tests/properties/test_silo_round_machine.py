"""The silo's round machine does what its table says, for every state and event, in every order."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InternalError
from privacy.plan import RoundContext
from silo_agent import round_events as events
from silo_agent import round_states as machine
from silo_agent.journal import decode_state, encode_state
from silo_agent.round import TABLE, step
from silo_agent.round_events import CommitBudget, Event, RefundBudget, ReserveBudget
from silo_agent.round_states import ENDS, Idle, State

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CTX = RoundContext(b"p" * 32, 1, b"a" * 32, ("east", "north"))
PARTS = st.just({"residues_root": "9" * 64})
DIGESTS = st.sampled_from([b"t" * 32, b"u" * 32])

OPENED_AT_ONCE = ("SumOpened", "EvidenceRejected")  # what comes of a certificate in a suite without one-time keys
RELEASED_FIRST = ("ReleaseSealed", "NothingToRelease", "RoundAborted")

states = st.one_of(
    st.just(Idle()),
    *(st.builds(getattr(machine, name), st.just(CTX), st.just(NOW))
      for name in ("Joined", "Reserved", "Sealed", "Submitted")),
    st.just(machine.Trained(CTX, NOW, 3)),
    st.builds(machine.Fingerprinted, st.just(CTX), st.just(NOW), DIGESTS, st.integers(1, 3), st.booleans()),
    st.builds(machine.Withdrawn, st.just(CTX), st.just(NOW), st.text(max_size=5)),
    *(st.builds(getattr(machine, name), st.just(CTX), st.just(NOW), DIGESTS)
      for name in ("Consented", "Released", "Unlocked", "Opened", "Applied")),
    st.builds(machine.Certified, st.just(CTX), st.just(NOW), DIGESTS, st.booleans()),
    st.builds(machine.Refused, st.just(NOW), st.text(max_size=5)),
    st.just(machine.Burnt(NOW)),
)  # fmt: skip
happenings = st.one_of(
    st.builds(events.RoundAnnounced, st.just(CTX)),
    *(st.builds(getattr(events, name)) for name in (
        "CollectingOpened", "CollectingClosed", "UpdateAccepted", "ReportAccepted",
        "FingerprintAccepted", "NothingToRelease", "ReleasesShown", "RoundAborted", "Restarted",
    )),
    *(st.builds(getattr(events, name), st.just("why")) for name in (
        "ReservationDenied", "PreparationFailed", "SealingFailed", "UpdateRejected", "EvidenceRejected",
    )),
    st.just(events.TrainingFinished(3, 3, 3)),
    st.builds(events.TrainingFinished, *[st.integers(0, 3)] * 3),
    st.builds(events.TrainingFailed, st.integers(0, 3), st.just("why")),
    st.builds(events.UpdateSealed, PARTS),
    st.builds(events.ReleaseSealed, PARTS),
    st.builds(
        events.CommitFingerprinted, DIGESTS, st.integers(1, 3), st.just("00" * 40), st.sampled_from([(), ("north",)])
    ),
    st.builds(events.CommitChecked, DIGESTS),
    st.builds(events.CertificateChecked, st.just(CTX), DIGESTS, st.booleans()),
    st.builds(events.SumOpened, DIGESTS),
)  # fmt: skip


@given(states, happenings)
def test_a_step_goes_where_the_table_says_and_nowhere_else(state: State, event: Event) -> None:
    name = type(event).__name__
    allowed = TABLE.get((type(state).__name__, name))
    others = () if not isinstance(state, machine.Certified) else OPENED_AT_ONCE if state.keyed else RELEASED_FIRST
    if allowed is None or name in others:
        with pytest.raises(InternalError, match="has no transition"):
            step(state, event, NOW)
    else:
        following, _ = step(state, event, NOW)
        assert type(following).__name__ in allowed


def test_the_table_names_every_state_and_every_event() -> None:
    names = {state for state, _ in TABLE} | {after for following in TABLE.values() for after in following}
    assert names == {kind.__name__ for kind in get_args(State)}
    assert {event for _, event in TABLE} == {kind.__name__ for kind in get_args(Event)}
    assert not {state for state, _ in TABLE} & {end.__name__ for end in ENDS}


@given(states)
def test_the_journal_gives_back_what_it_was_given(state: State) -> None:
    if isinstance(state, Idle):
        return
    name, document = encode_state(state)
    assert decode_state(name, document) == state


@pytest.mark.parametrize(("name", "document"), [("Nowhere", b"{}"), ("Joined", b"{}"), ("Joined", b"[]")])
def test_a_damaged_journal_is_named(name: str, document: bytes) -> None:
    with pytest.raises(InternalError, match="round journal"):
        decode_state(name, document)


@settings(max_examples=300)
@given(st.lists(happenings, max_size=40))
def test_whatever_happens_a_round_is_reserved_once_and_settled_once(sequence: list[Event]) -> None:
    state: State = Idle()
    reserved = settled = 0
    for event in sequence:
        try:
            state, actions = step(state, event, NOW)
        except InternalError:
            continue
        reserved += sum(isinstance(action, ReserveBudget) for action in actions)
        settled += sum(isinstance(action, CommitBudget | RefundBudget) for action in actions)
        assert settled <= reserved <= 1
        if isinstance(state, machine.Sealed | machine.Submitted):
            assert settled == 1, "an update is paid for before it can leave"


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_only_what_ran_as_planned_is_sealed_and_its_own_count_is_charged(ran: int, noised: int, planned: int) -> None:
    state, actions = step(machine.Reserved(CTX, NOW), events.TrainingFinished(ran, noised, planned), NOW)
    if ran == noised == planned:
        assert state == machine.Trained(CTX, NOW, ran)
        _, actions = step(state, events.UpdateSealed({}), NOW)
        assert CommitBudget(ran) in actions
    else:
        assert isinstance(state, machine.Withdrawn)
        assert CommitBudget(None) in actions
        assert events.Seal() not in actions


@given(happenings)
def test_only_a_training_without_a_step_is_refunded(event: Event) -> None:
    for state in (machine.Reserved(CTX, NOW), machine.Trained(CTX, NOW, 3)):
        try:
            _, actions = step(state, event, NOW)
        except InternalError:
            continue
        refunds = any(isinstance(action, RefundBudget) for action in actions)
        assert refunds == (
            isinstance(state, machine.Reserved)
            and isinstance(event, events.TrainingFailed)
            and event.steps_executed == 0
        )


@settings(max_examples=300)
@given(st.lists(happenings, max_size=40))
def test_whatever_happens_shares_are_released_after_one_consent_and_one_certificate_alone(
    sequence: list[Event],
) -> None:
    """Step 6: what is released is of the transcript whose certificate was checked, and of no second one."""
    state: State = Idle()
    certified: set[bytes] = set()
    for event in sequence:
        try:
            state, actions = step(state, event, NOW)
        except InternalError:
            continue
        if isinstance(event, events.CertificateChecked):
            certified.add(event.transcript)
        for action in actions:
            if isinstance(action, events.SealRelease | events.SendRelease):
                assert isinstance(state, machine.Certified | machine.Released)
                assert certified == {state.transcript}
