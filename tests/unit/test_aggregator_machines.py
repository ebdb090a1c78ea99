"""The aggregator's two machines, step by step, and against their tables."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aggregator import job, job_events, round_events
from aggregator import round as rounds
from aggregator import round_states as states
from aggregator.job_events import (
    AnnounceRound,
    CloseRound,
    CoordinatorCancelled,
    CountPresent,
    FixRoll,
    KeyDealt,
    PresenceChanged,
    RoundAborted,
    RoundBroken,
    RoundPublished,
    SiloJoined,
    SiloRefused,
    SilosSilent,
)
from aggregator.round_events import (
    CloseSpool,
    CommitSum,
    DeadlinePassed,
    JobClosed,
    ReportAborted,
    ReportBroken,
    ReportLeftOut,
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
from privacy.errors import InternalError, ProtocolError
from tests.parties import Cohort
from tests.scripted import KeyedCohort

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATE = NOW + timedelta(hours=1)
COHORT = Cohort("a", "b", "c")
EVERYBODY = frozenset({"a", "b", "c"})
X, Y = b"x" * 32, b"y" * 32

ANNOUNCED = rounds.announce(COHORT.plan, 1, ("a", "b", "c"), NOW)
COLLECTING = states.Collecting(ANNOUNCED.terms, LATE)
FINGERPRINTING = states.Fingerprinting(ANNOUNCED.terms, LATE, ("a", "b", "c"))
COMMITTED = states.Committed(ANNOUNCED.terms, LATE, ("a", "b", "c"))
RELEASING = states.Releasing(ANNOUNCED.terms, LATE, ("a", "b", "c"), frozenset({"a", "b"}), {})
PUBLISHED = states.Published(ANNOUNCED.terms, ("a", "b", "c"), X, frozenset({()}))
ABORTED = states.Aborted(ANNOUNCED.terms, "because", certified=False)

KEYED = KeyedCohort("a", "b", "c", "d")  # three shares open a sum; one silo may collude
ALL_FOUR = ("a", "b", "c", "d")
KEYED_TERMS = rounds.announce(KEYED.plan, 1, ALL_FOUR, NOW).terms
KEYED_FINGERPRINTING = states.Fingerprinting(KEYED_TERMS, LATE, ALL_FOUR)
KEYED_COMMITTED = states.Committed(KEYED_TERMS, LATE, ALL_FOUR)
SHARING = states.Sharing(KEYED_TERMS, LATE, ALL_FOUR, frozenset({"a", "b", "c"}))

ROUND_STATES = (
    ANNOUNCED, COLLECTING, FINGERPRINTING, COMMITTED, RELEASING, PUBLISHED, ABORTED,
    KEYED_FINGERPRINTING, KEYED_COMMITTED, SHARING,
)  # fmt: skip
ROUND_EVENTS = (
    RoundJoined("a"),
    UpdateStored("a"),
    SiloWithdrew("a"),
    SiloFingerprinted("a", holds=True),
    SiloFingerprinted("a", holds=False),
    SiloConsented("a"),
    SiloReleased("a"),
    SiloApplied("a", X),
    DeadlinePassed(),
    JobClosed("over"),
    Restarted(5.0),
)

JOINS = {name: COHORT.job_join(name) for name in ("a", "b", "c")}
JOINING = job.submit(COHORT.plan, NOW)
DEALING = job.step(replace(JOINING, joins=JOINS), DeadlinePassed(), LATE)[0]
GATHERING = job.gather(COHORT.plan, ("a", "b", "c"), job.Progress(X), NOW)[0]
RUNNING = job.Running(COHORT.plan, ("a", "b", "c"), job.Progress(X, last_round=1))
JOB_STATES = (
    JOINING,
    DEALING,
    GATHERING,
    RUNNING,
    job.Finished(COHORT.plan),
    job.Stopped(COHORT.plan, "because"),
    job.Cancelled(COHORT.plan),
)
JOB_EVENTS = (
    SiloJoined("a", JOINS["a"]),
    SiloRefused("a"),
    KeyDealt(DEALING.dealer),
    PresenceChanged(EVERYBODY),
    RoundPublished(Y),
    RoundAborted("because"),
    RoundBroken("because"),
    SilosSilent(frozenset({"a"})),
    CoordinatorCancelled(),
    DeadlinePassed(),
    Restarted(5.0),
)


def test_the_round_table_says_what_step_does() -> None:
    for state in ROUND_STATES:
        for event in ROUND_EVENTS:
            follows = rounds.TABLE.get((type(state).__name__, type(event).__name__))
            try:
                after, _ = rounds.step(state, event, LATE)
            except ProtocolError:
                assert follows is None or (type(state), type(event)) == (states.Aborted, SiloApplied)
            else:
                assert follows is not None
                assert type(after).__name__ in follows


def test_the_job_table_says_what_step_does() -> None:
    for state in JOB_STATES:
        for event in JOB_EVENTS:
            follows = job.TABLE.get((type(state).__name__, type(event).__name__))
            try:
                after, _ = job.step(state, event, LATE)
            except (ProtocolError, InternalError):
                assert follows is None
            else:
                assert follows is not None
                assert type(after).__name__ in follows


def test_the_tables_name_only_states_and_events_that_exist() -> None:
    for table, kinds, events in ((rounds.TABLE, states, round_events), (job.TABLE, job, job_events)):
        for (state, event), following in table.items():
            assert all(hasattr(kinds, name) for name in (state, *following))
            assert hasattr(events, event)


# -- a round ----------------------------------------------------------------------------------------------------------


def test_all_joined_opens_the_collection() -> None:
    state, _ = rounds.step(ANNOUNCED, RoundJoined("a"), NOW)
    state, _ = rounds.step(state, RoundJoined("b"), NOW)
    assert isinstance(state, states.Announced)
    state, actions = rounds.step(state, RoundJoined("c"), NOW)
    assert state == states.Collecting(ANNOUNCED.terms, NOW + timedelta(seconds=60))
    assert actions == ()


def test_a_silo_that_does_not_join_burns_the_number_and_is_named() -> None:
    state, _ = rounds.step(ANNOUNCED, RoundJoined("a"), NOW)
    assert rounds.step(state, DeadlinePassed(), NOW) == (state, ())
    after, actions = rounds.step(state, DeadlinePassed(), LATE)
    assert after == states.Aborted(ANNOUNCED.terms, "b, c did not join in time", certified=False)
    assert actions == (CloseSpool(keep_sum=False), ReportAborted(after.reason, frozenset({"b", "c"})))


def test_the_sum_is_fixed_over_those_who_submitted() -> None:
    state, _ = rounds.step(COLLECTING, UpdateStored("c"), NOW)
    state, _ = rounds.step(state, UpdateStored("a"), NOW)
    after, actions = rounds.step(state, SiloWithdrew("b"), NOW)
    assert after.members == ("a", "c")
    assert actions == (CommitSum(("a", "c")),)
    assert rounds.step(state, DeadlinePassed(), LATE)[1] == (CommitSum(("a", "c")),)


def test_fewer_updates_than_the_minimum_abort() -> None:
    state, _ = rounds.step(COLLECTING, UpdateStored("c"), NOW)
    after, _ = rounds.step(state, DeadlinePassed(), LATE)
    assert after.reason == "1 updates came, fewer than the minimum of 2"


def test_submitting_and_withdrawing_exclude_each_other() -> None:
    submitted, _ = rounds.step(COLLECTING, UpdateStored("a"), NOW)
    with pytest.raises(ProtocolError, match="a has submitted its update"):
        rounds.step(submitted, SiloWithdrew("a"), NOW)
    withdrawn, _ = rounds.step(COLLECTING, SiloWithdrew("a"), NOW)
    with pytest.raises(ProtocolError, match="a withdrew before"):
        rounds.step(withdrawn, UpdateStored("a"), NOW)


def test_a_threshold_of_consents_releases() -> None:
    state, _ = rounds.step(COMMITTED, SiloConsented("a"), NOW)
    assert isinstance(state, states.Committed)
    after, _ = rounds.step(state, SiloConsented("b"), NOW)
    assert after == states.Releasing(
        ANNOUNCED.terms, NOW + timedelta(seconds=60), ("a", "b", "c"), frozenset({"a", "b"}), {}
    )
    aborted, _ = rounds.step(state, DeadlinePassed(), LATE)
    assert aborted.reason == "1 consents came of 2; none from b, c"


def test_all_who_consented_applied_publishes() -> None:
    state, _ = rounds.step(RELEASING, SiloApplied("a", X), NOW)
    assert isinstance(state, states.Releasing)
    after, actions = rounds.step(state, SiloApplied("b", X), NOW)
    assert after == PUBLISHED
    assert actions == (CloseSpool(keep_sum=True), ReportPublished(X))
    assert rounds.step(state, DeadlinePassed(), LATE)[0] == PUBLISHED


def test_a_late_consent_is_waited_for() -> None:
    state, _ = rounds.step(RELEASING, SiloConsented("c"), NOW)
    for name in ("a", "b"):
        state, _ = rounds.step(state, SiloApplied(name, X), NOW)
    assert isinstance(state, states.Releasing)


def test_different_adapters_break_the_job_at_once_and_later() -> None:
    state, _ = rounds.step(RELEASING, SiloApplied("a", X), NOW)
    after, actions = rounds.step(state, SiloApplied("b", Y), NOW)
    assert after.certified
    assert actions[-1] == ReportBroken(
        "adapter digests differ after round 1: b computed another adapter than the others"
    )
    assert isinstance(rounds.step(PUBLISHED, SiloApplied("c", Y), NOW)[1][0], ReportBroken)
    assert rounds.step(PUBLISHED, SiloApplied("c", X), NOW) == (PUBLISHED, ())


def test_different_validation_sums_break_the_job_at_once_and_later() -> None:
    state, _ = rounds.step(RELEASING, SiloApplied("a", X, (1, 2, 3)), NOW)
    after, actions = rounds.step(state, SiloApplied("b", X, (1, 2, 4)), NOW)
    why = "validation sums differ after round 1: b opened others than the others did"
    assert (after.certified, actions[-1]) == (True, ReportBroken(why))
    published, _ = rounds.step(state, SiloApplied("b", X, (1, 2, 3)), NOW)
    assert published == replace(PUBLISHED, validations=frozenset({(1, 2, 3)}))
    assert rounds.step(published, SiloApplied("c", X, (1, 2, 3)), NOW) == (published, ())
    broken = replace(PUBLISHED, validations=frozenset({(1, 2, 3), ()}))
    assert rounds.step(published, SiloApplied("c", X), NOW) == (broken, (ReportBroken(why.replace(" b ", " c ")),))
    assert rounds.step(broken, SiloApplied("c", X), NOW)[1], "as rebuilt from what was stored already"


def test_nobody_opening_a_certified_sum_breaks_the_job() -> None:
    after, actions = rounds.step(RELEASING, DeadlinePassed(), LATE)
    assert after.certified
    assert actions == (CloseSpool(keep_sum=True), ReportBroken("nobody applied the certified sum of round 1"))


def test_a_stranger_is_refused_and_a_restart_gives_grace() -> None:
    with pytest.raises(ProtocolError, match="z is not a participant of it"):
        rounds.step(ANNOUNCED, RoundJoined("z"), NOW)
    after, _ = rounds.step(COLLECTING, Restarted(30.0), LATE)
    assert after.deadline_utc == LATE + timedelta(seconds=30)
    assert rounds.step(COLLECTING, Restarted(30.0), NOW)[0] == COLLECTING


def test_a_withheld_certificate_still_counts() -> None:
    after, actions = rounds.step(RELEASING, JobClosed("cancelled"), NOW)
    assert after.certified
    assert CloseSpool(keep_sum=True) in actions
    assert rounds.step(after, SiloApplied("a", X), NOW) == (after, ())
    with pytest.raises(ProtocolError, match="is ABORTED and takes no report of an applied adapter"):
        rounds.step(ABORTED, SiloApplied("a", X), NOW)


# -- a round with one-time keys ---------------------------------------------------------------------------------------


def told(state: states.RoundState, *events: round_events.RoundEvent) -> rounds.Outcome:
    """After these events; with what the last of them called for."""
    actions: tuple[round_events.RoundAction, ...] = ()
    for event in events:
        state, actions = rounds.step(state, event, NOW)
    return state, actions


def test_a_certificate_lets_sums_of_shares_be_released_before_anybody_can_open() -> None:
    state, _ = told(KEYED_COMMITTED, SiloConsented("a"), SiloConsented("b"))
    assert isinstance(state, states.Committed)
    after, actions = told(state, SiloConsented("c"))
    assert after == states.Sharing(KEYED_TERMS, NOW + timedelta(seconds=60), ALL_FOUR, frozenset({"a", "b", "c"}))
    assert actions == ()
    assert told(after, SiloConsented("d"))[0] == replace(after, consented=frozenset(ALL_FOUR))


def test_a_threshold_of_released_sums_opens_and_later_ones_are_taken_down() -> None:
    state, _ = told(SHARING, SiloReleased("d"), SiloReleased("a"), SiloReleased("a"))
    assert state == replace(SHARING, released=frozenset({"a", "d"}))
    after, actions = told(state, SiloReleased("b"))
    assert after == states.Releasing(KEYED_TERMS, NOW + timedelta(seconds=60), ALL_FOUR, frozenset({"a", "b", "c"}), {})
    assert actions == ()
    assert told(after, SiloReleased("c")) == (after, ())
    published, _ = told(after, *(SiloApplied(name, X) for name in ("a", "b", "c")))
    assert isinstance(published, states.Published)
    assert told(published, SiloReleased("c")) == (published, ())


@pytest.mark.parametrize("state", [KEYED_FINGERPRINTING, KEYED_COMMITTED, COLLECTING, ABORTED])
def test_shares_are_released_on_a_certificate_only(state: states.RoundState) -> None:
    name = rounds.phase_name(state)
    with pytest.raises(ProtocolError, match=f"is {name} and takes no release of shares"):
        rounds.step(state, SiloReleased("a"), NOW)


def test_a_stranger_releases_nothing() -> None:
    with pytest.raises(ProtocolError, match="z is not a participant of it"):
        rounds.step(SHARING, SiloReleased("z"), NOW)


def test_too_few_released_sums_burn_the_number_with_nothing_opened() -> None:
    state, _ = told(SHARING, SiloReleased("b"), SiloReleased("d"))
    assert rounds.step(state, DeadlinePassed(), NOW) == (state, ())
    after, actions = rounds.step(state, DeadlinePassed(), LATE)
    reason = "2 sums of shares came of 3; none from a, c"
    assert after == states.Aborted(KEYED_TERMS, reason, certified=False)
    assert actions == (CloseSpool(keep_sum=False), ReportAborted(reason, frozenset({"a", "c"})))
    with pytest.raises(ProtocolError, match="is ABORTED and takes no release of shares"):
        rounds.step(after, SiloReleased("a"), LATE)


def test_a_job_that_ends_while_shares_are_released_has_opened_nothing() -> None:
    state, _ = told(SHARING, SiloReleased("a"), SiloReleased("b"))
    after, actions = told(state, JobClosed("cancelled"))
    assert after == states.Aborted(KEYED_TERMS, "cancelled", certified=False)
    assert CloseSpool(keep_sum=False) in actions


def test_a_restart_gives_grace_to_those_who_are_to_release() -> None:
    state, _ = told(SHARING, SiloReleased("a"))
    after, _ = rounds.step(state, Restarted(30.0), LATE)
    assert after == replace(state, deadline_utc=LATE + timedelta(seconds=30))


def test_who_withdrew_changes_nothing_while_shares_are_released() -> None:
    assert told(SHARING, SiloWithdrew("d")) == (SHARING, ())


def answers(**named: str) -> list[SiloFingerprinted]:
    """All four answer; those that are given name members, a letter each, whose mails they could not open."""
    return [SiloFingerprinted(name, holds=True, unopened=frozenset(named.get(name, ""))) for name in ALL_FOUR]


def test_whom_no_more_silos_name_than_may_collude_stays() -> None:
    after, actions = told(KEYED_FINGERPRINTING, *answers(a="bd", b="c"))  # b, c and d: by one silo each
    assert after == states.Committed(KEYED_TERMS, NOW + timedelta(seconds=60), ALL_FOUR)
    assert actions == ()


def test_whom_more_silos_name_than_may_collude_is_left_out() -> None:
    *first, last = answers(a="bd", c="d")
    state, actions = told(KEYED_FINGERPRINTING, *first)
    assert (type(state), actions) == (states.Fingerprinting, ())
    after, actions = told(state, last)
    assert after == states.Fingerprinting(KEYED_TERMS, NOW + timedelta(seconds=60), ("a", "b", "c"), attempt=2)
    assert actions == (CommitSum(("a", "b", "c"), 2), ReportLeftOut(frozenset(), frozenset({"d"})))


def test_at_the_deadline_the_named_and_the_silent_go_together() -> None:
    state, _ = told(KEYED_FINGERPRINTING, *answers(a="d", b="d")[:2], SiloFingerprinted("d", holds=True))
    after, actions = rounds.step(state, DeadlinePassed(), LATE)
    reason = "2 fingerprints hold, fewer than the minimum of 3; none of c, d"
    assert after == states.Aborted(KEYED_TERMS, reason, certified=False)
    assert actions[-1] == ReportAborted(reason, frozenset({"c"})), "d answered and is waited for again"


def test_whose_fingerprint_is_wrong_accuses_nobody() -> None:
    wrong = SiloFingerprinted("a", holds=False, unopened=frozenset({"d"}))
    after, actions = told(KEYED_FINGERPRINTING, wrong, *answers(b="d")[1:])
    assert isinstance(after, states.Fingerprinting)
    assert actions == (CommitSum(("b", "c", "d"), 2), ReportLeftOut(frozenset(), frozenset({"a"})))


# -- a job ------------------------------------------------------------------------------------------------------------


def join(*names: str):
    state = JOINING
    for name in names:
        state, actions = job.step(state, SiloJoined(name, JOINS[name]), NOW)
    return state, actions


def test_all_decided_fixes_the_roll() -> None:
    state, actions = join("b", "a")
    assert isinstance(state, job.Joining)
    state, actions = job.step(state, SiloRefused("c"), NOW)
    assert actions == (FixRoll(("a", "b")),)
    assert state.dealer in {"a", "b"}


def test_a_job_with_one_time_keys_has_no_dealer() -> None:
    state: job.JobState = job.submit(KEYED.plan, NOW)
    for name in ("a", "b", "c"):
        state, actions = job.step(state, SiloJoined(name, KEYED.job_join(name)), NOW)
        assert actions == ()
    after, actions = job.step(state, SiloRefused("d"), NOW)
    assert after == job.gather(KEYED.plan, ("a", "b", "c"), job.Progress(bytes(32)), NOW)[0]
    assert actions == (FixRoll(("a", "b", "c")), CountPresent())
    with pytest.raises(ProtocolError, match="is GATHERING: too late for this"):
        job.step(after, KeyDealt("a"), NOW)
    assert job.step(state, DeadlinePassed(), LATE)[1] == actions


def test_too_few_joins_stop_the_job() -> None:
    state, _ = join("a")
    after, _ = job.step(state, DeadlinePassed(), LATE)
    assert after == job.Stopped(COHORT.plan, "1 silos are in; of 3 it takes 2")


def test_joining_and_refusing_exclude_each_other() -> None:
    with pytest.raises(ProtocolError, match="a has joined the job"):
        job.step(join("a")[0], SiloRefused("a"), NOW)
    refused, _ = job.step(JOINING, SiloRefused("a"), NOW)
    with pytest.raises(ProtocolError, match="a refused the job before"):
        job.step(refused, SiloJoined("a", JOINS["a"]), NOW)


def test_a_dealer_that_does_not_deal_leaves_the_roll() -> None:
    first = DEALING.dealer
    second, actions = job.step(DEALING, DeadlinePassed(), LATE + timedelta(hours=1))
    assert first not in second.roll.members
    assert actions == (FixRoll(second.roll.members),)
    assert second.roll.digest != DEALING.roll.digest
    stopped, _ = job.step(second, DeadlinePassed(), LATE + timedelta(hours=2))
    assert "dealt no key in time; 1 silos are in" in stopped.reason
    with pytest.raises(ProtocolError, match="this roll's dealer is"):
        job.step(second, KeyDealt(first), NOW)


def test_a_round_waits_for_all_and_after_a_while_for_the_minimum() -> None:
    state, actions = job.step(DEALING, KeyDealt(DEALING.dealer), NOW)
    assert actions == (CountPresent(),)
    waiting, actions = job.step(state, PresenceChanged(frozenset({"a", "b", "z"})), NOW)
    assert actions == ()
    after, actions = job.step(waiting, DeadlinePassed(), LATE)
    assert actions == (AnnounceRound(1, ("a", "b"), bytes(32)),)
    assert after.progress.absent == {"c"}
    assert job.step(waiting, PresenceChanged(EVERYBODY), NOW)[1] == (AnnounceRound(1, ("a", "b", "c"), bytes(32)),)


def test_fewer_than_the_minimum_connected_wait_without_burning_a_number() -> None:
    alone, _ = job.step(GATHERING, PresenceChanged(frozenset({"a"})), NOW)
    alone, actions = job.step(alone, DeadlinePassed(), LATE)
    assert actions == ()
    assert job.step(alone, PresenceChanged(frozenset({"a", "c"})), LATE)[1] == (AnnounceRound(1, ("a", "c"), X),)


def test_who_was_absent_is_not_waited_for_until_heard_of() -> None:
    absent = replace(GATHERING, progress=job.Progress(X, absent=frozenset({"c"})))
    assert job.step(absent, PresenceChanged(EVERYBODY), NOW)[1] == (AnnounceRound(1, ("a", "b"), X),)
    back = PresenceChanged(frozenset({"a", "b"}), frozenset({"c"}))
    assert job.step(absent, back, NOW)[1] == ()
    only_they, _ = job.step(absent, PresenceChanged(frozenset({"a", "c"})), NOW)
    assert job.step(only_they, DeadlinePassed(), LATE)[1] == (AnnounceRound(1, ("a", "c"), X),)


def test_rounds_go_on_until_enough_are_published_or_all_attempts_used() -> None:
    state, _ = job.step(RUNNING, RoundPublished(Y), NOW)
    assert (state.progress.adapter, state.progress.published) == (Y, 1)
    last = replace(RUNNING, progress=job.Progress(Y, last_round=4, published=1))
    assert isinstance(job.step(last, RoundPublished(X), NOW)[0], job.Finished)
    stopped, _ = job.step(last, RoundAborted("b did not join in time"), NOW)
    assert stopped.reason == "1 of 2 rounds were published in 4 attempts; the last: b did not join in time"


def test_an_end_closes_the_open_round() -> None:
    assert job.step(RUNNING, RoundBroken("why"), NOW) == (job.Stopped(COHORT.plan, "why"), (CloseRound("why"),))
    assert job.step(RUNNING, CoordinatorCancelled(), NOW)[1] == (CloseRound("the coordinator cancelled the job"),)
    with pytest.raises(ProtocolError, match="is FINISHED: too late for this"):
        job.step(job.Finished(COHORT.plan), CoordinatorCancelled(), NOW)
    with pytest.raises(InternalError, match="RoundPublished in Joining"):
        job.step(JOINING, RoundPublished(X), NOW)
