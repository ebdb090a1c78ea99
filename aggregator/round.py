"""The aggregator's round machine: pure, no clock, no file, no network.

`step(state, event, now)` gives the next state and what must be done before it counts. TABLE says as data which
states each event may lead to; the diagram in docs/reference/aggregator-states.md is generated from it and tests hold
`step` to it. Phases and steps are those of docs/reference/protocol.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

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
    RoundAction,
    RoundEvent,
    RoundJoined,
    SiloApplied,
    SiloConsented,
    SiloFingerprinted,
    SiloReleased,
    SiloWithdrew,
    UpdateStored,
)
from aggregator.round_states import (
    OPEN_ROUND,
    Aborted,
    Announced,
    Collecting,
    Committed,
    Fingerprinting,
    Opened,
    Published,
    Releasing,
    RoundState,
    Sharing,
    Terms,
)
from privacy.errors import ProtocolError
from privacy.plan import JobPlan

Outcome = tuple[RoundState, tuple[RoundAction, ...]]

TABLE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("Announced", "RoundJoined"): ("Announced", "Collecting"),
    ("Announced", "DeadlinePassed"): ("Announced", "Aborted"),
    ("Announced", "JobClosed"): ("Aborted",),
    ("Announced", "Restarted"): ("Announced",),
    ("Collecting", "UpdateStored"): ("Collecting", "Fingerprinting", "Aborted"),
    ("Collecting", "SiloWithdrew"): ("Collecting", "Fingerprinting", "Aborted"),
    ("Collecting", "DeadlinePassed"): ("Collecting", "Fingerprinting", "Aborted"),
    ("Collecting", "JobClosed"): ("Aborted",),
    ("Collecting", "Restarted"): ("Collecting",),
    ("Fingerprinting", "SiloWithdrew"): ("Fingerprinting",),
    ("Fingerprinting", "SiloFingerprinted"): ("Fingerprinting", "Committed", "Aborted"),
    ("Fingerprinting", "DeadlinePassed"): ("Fingerprinting", "Aborted"),
    ("Fingerprinting", "JobClosed"): ("Aborted",),
    ("Fingerprinting", "Restarted"): ("Fingerprinting",),
    ("Committed", "SiloWithdrew"): ("Committed",),
    ("Committed", "SiloConsented"): ("Committed", "Sharing", "Releasing"),
    ("Committed", "DeadlinePassed"): ("Committed", "Aborted"),
    ("Committed", "JobClosed"): ("Aborted",),
    ("Committed", "Restarted"): ("Committed",),
    ("Sharing", "SiloWithdrew"): ("Sharing",),
    ("Sharing", "SiloConsented"): ("Sharing",),
    ("Sharing", "SiloReleased"): ("Sharing", "Releasing"),
    ("Sharing", "DeadlinePassed"): ("Sharing", "Aborted"),
    ("Sharing", "JobClosed"): ("Aborted",),
    ("Sharing", "Restarted"): ("Sharing",),
    ("Releasing", "SiloWithdrew"): ("Releasing",),
    ("Releasing", "SiloReleased"): ("Releasing",),
    ("Releasing", "SiloConsented"): ("Releasing",),
    ("Releasing", "SiloApplied"): ("Releasing", "Published", "Aborted"),
    ("Releasing", "DeadlinePassed"): ("Releasing", "Published", "Aborted"),
    ("Releasing", "JobClosed"): ("Aborted",),
    ("Releasing", "Restarted"): ("Releasing",),
    ("Published", "SiloWithdrew"): ("Published",),
    ("Published", "SiloConsented"): ("Published",),
    ("Published", "SiloReleased"): ("Published",),
    ("Published", "SiloApplied"): ("Published",),
    ("Aborted", "SiloWithdrew"): ("Aborted",),
    ("Aborted", "SiloApplied"): ("Aborted",),
}


OF_SILOS = (
    RoundJoined, UpdateStored, SiloWithdrew, SiloFingerprinted, SiloConsented, SiloReleased, SiloApplied,
)  # fmt: skip


def terms_of(plan: JobPlan, number: int, participants: tuple[str, ...]) -> Terms:
    """The rules of a round with these participants."""
    cohort = plan.cohort
    threshold = plan.threshold(len(participants))
    return Terms(
        number, participants, cohort.minimum, threshold, cohort.tolerated_colluders, plan.suite.keyed, plan.deadlines
    )


def announce(plan: JobPlan, number: int, participants: tuple[str, ...], now: datetime) -> Announced:
    """A round's first state. The caller has recorded that this number has this context and no other."""
    return Announced(terms_of(plan, number, participants), now + timedelta(seconds=plan.deadlines.join_round_s))


def step(state: RoundState, event: RoundEvent, now: datetime) -> Outcome:
    """The next state, and the actions that must succeed before it counts.

    Raises ProtocolError when a silo says something that the round is not at, or that it took back before; nothing
    changes then.
    """
    if (type(state).__name__, type(event).__name__) not in TABLE:
        raise _untimely(state, event)
    if isinstance(event, OF_SILOS):
        _require_participant(state.terms, event.silo)
    if isinstance(event, SiloApplied) and isinstance(state, Aborted) and not state.certified:
        raise _untimely(state, event)
    if isinstance(state, OPEN_ROUND) and isinstance(event, JobClosed):
        return _abort(state.terms, event.reason, certified=isinstance(state, Releasing))
    if isinstance(state, OPEN_ROUND) and isinstance(event, Restarted):
        return replace(state, deadline_utc=_extended(state.deadline_utc, now, event.grace_s)), ()
    return _step(state, event, now)


def _step(state: RoundState, event: RoundEvent, now: datetime) -> Outcome:
    """What is left of `step`: events that mean another thing in each state."""
    match state:
        case Announced():
            outcome = _announced(state, event, now)
        case Collecting():
            outcome = _collecting(state, event, now)
        case Fingerprinting():
            outcome = _fingerprinting(state, event, now)
        case Committed():
            outcome = _committed(state, event, now)
        case Sharing():
            outcome = _sharing(state, event, now)
        case Releasing():
            outcome = _releasing(state, event, now)
        case Published():
            outcome = _published(state, event)
        case Aborted():
            outcome = state, ()
        case _:
            assert_never(state)
    return outcome


def _announced(state: Announced, event: RoundEvent, now: datetime) -> Outcome:
    match event:
        case RoundJoined(silo=silo):
            joined = state.joined | {silo}
            if len(joined) < len(state.terms.participants):
                return replace(state, joined=joined), ()
            return Collecting(state.terms, _after(now, state.terms.deadlines.submit_s)), ()
        case DeadlinePassed() if now >= state.deadline_utc:
            silent = frozenset(state.terms.participants) - state.joined
            return _abort(state.terms, f"{_names(silent)} did not join in time", silent=silent)
    return state, ()


def _collecting(state: Collecting, event: RoundEvent, now: datetime) -> Outcome:
    match event:
        case UpdateStored(silo=silo) if silo in state.withdrawn:
            raise _contradiction(state.terms, silo, "withdrew before")
        case SiloWithdrew(silo=silo) if silo in state.submitted:
            raise _contradiction(state.terms, silo, "has submitted its update")
        case UpdateStored(silo=silo):
            return _settle(replace(state, submitted=state.submitted | {silo}), now)
        case SiloWithdrew(silo=silo):
            return _settle(replace(state, withdrawn=state.withdrawn | {silo}), now)
        case DeadlinePassed() if now >= state.deadline_utc:
            return _close_collection(state, now)
    return state, ()


def _settle(state: Collecting, now: datetime) -> Outcome:
    """Go on once every participant has submitted or withdrawn."""
    if state.submitted | state.withdrawn == frozenset(state.terms.participants):
        return _close_collection(state, now)
    return state, ()


def _close_collection(state: Collecting, now: datetime) -> Outcome:
    terms = state.terms
    if len(state.submitted) < terms.minimum:
        reason = f"{len(state.submitted)} updates came, fewer than the minimum of {terms.minimum}"
        return _abort(terms, reason, silent=frozenset(terms.participants) - state.submitted - state.withdrawn)
    return _commit(terms, tuple(sorted(state.submitted)), 1, now)


def _commit(terms: Terms, members: tuple[str, ...], attempt: int, now: datetime) -> Outcome:
    deadline_utc = _after(now, terms.deadlines.consent_s)
    return Fingerprinting(terms, deadline_utc, members, attempt), (CommitSum(members, attempt),)


def _fingerprinting(state: Fingerprinting, event: RoundEvent, now: datetime) -> Outcome:
    match event:
        case SiloFingerprinted(silo=silo) if silo not in state.members:
            why = f"its sum is without the update of {silo}"
            raise ProtocolError(f"round {state.terms.number}", why, "Ask for the round (GetRound).", sender=silo)
        case SiloFingerprinted(silo=silo, holds=True, unopened=unopened):
            answered, wrong = state.answered | {silo}, state.wrong - {silo}
            told = {**state.unopened, silo: unopened}
            return _settle_sum(replace(state, answered=answered, wrong=wrong, unopened=told), now)
        case SiloFingerprinted(silo=silo):
            return _settle_sum(replace(state, wrong=state.wrong | {silo}), now)
        case DeadlinePassed() if now >= state.deadline_utc:
            return _commit_again(state, now)
    return state, ()


def _settle_sum(state: Fingerprinting, now: datetime) -> Outcome:
    """Go on once every member of the sum has answered, rightly or wrongly."""
    if state.answered >= frozenset(state.members) and not state.blamed:
        return Committed(state.terms, _after(now, state.terms.deadlines.consent_s), state.members), ()
    if state.answered | state.wrong == frozenset(state.members):
        return _commit_again(state, now)
    return state, ()


def _commit_again(state: Fingerprinting, now: datetime) -> Outcome:
    """Step 4: without those whose fingerprint did not come or does not hold, or whose share mails many cannot open."""
    terms, members = state.terms, tuple(sorted(state.answered - state.blamed))
    silent = frozenset(state.members) - state.answered - state.wrong
    if len(members) < terms.minimum:
        out = frozenset(state.members) - frozenset(members)
        reason = f"{len(members)} fingerprints hold, fewer than the minimum of {terms.minimum}; none of {_names(out)}"
        return _abort(terms, reason, silent=silent)
    following, actions = _commit(terms, members, state.attempt + 1, now)
    return following, (*actions, ReportLeftOut(silent, state.wrong | state.blamed))


def _committed(state: Committed, event: RoundEvent, now: datetime) -> Outcome:
    terms = state.terms
    match event:
        case SiloConsented(silo=silo):
            consented = state.consented | {silo}
            if len(consented) < terms.threshold:
                return replace(state, consented=consented), ()
            if terms.keyed:
                return Sharing(terms, _after(now, terms.deadlines.consent_s), state.members, consented), ()
            return _release(terms, state.members, consented, now), ()
        case DeadlinePassed() if now >= state.deadline_utc:
            silent = frozenset(terms.participants) - state.consented
            reason = f"{len(state.consented)} consents came of {terms.threshold}; none from {_names(silent)}"
            return _abort(terms, reason, silent=silent)
    return state, ()


def _release(terms: Terms, members: tuple[str, ...], consented: frozenset[str], now: datetime) -> Releasing:
    return Releasing(terms, _after(now, terms.deadlines.apply_s), members, consented, {})


def _sharing(state: Sharing, event: RoundEvent, now: datetime) -> Outcome:
    """Until enough released: nobody can have opened the sum before, so that giving up leaves all where they were."""
    terms = state.terms
    match event:
        case SiloConsented(silo=silo):
            return replace(state, consented=state.consented | {silo}), ()
        case SiloReleased(silo=silo):
            released = state.released | {silo}
            if len(released) < terms.threshold:
                return replace(state, released=released), ()
            return _release(terms, state.members, state.consented, now), ()
        case DeadlinePassed() if now >= state.deadline_utc:
            silent = state.consented - state.released
            reason = f"{len(state.released)} sums of shares came of {terms.threshold}; none from {_names(silent)}"
            return _abort(terms, reason, silent=silent)
    return state, ()


def _releasing(state: Releasing, event: RoundEvent, now: datetime) -> Outcome:
    terms = state.terms
    match event:
        case SiloConsented(silo=silo):
            return replace(state, consented=state.consented | {silo}), ()
        case SiloApplied():
            return _note_applied(state, event)
        case DeadlinePassed() if now >= state.deadline_utc:
            nobody = f"nobody applied the certified sum of round {terms.number}"
            return _publish(state) if state.applied else _broken(terms, nobody)
    return state, ()


def _note_applied(state: Releasing, event: SiloApplied) -> Outcome:
    opened = Opened(event.adapter, event.validation)
    others = next(iter(state.applied.values()), opened)
    if opened != others:
        why = _other_adapter if opened.adapter != others.adapter else _other_validation
        return _broken(state.terms, why(state.terms.number, event.silo))
    state = replace(state, applied={**state.applied, event.silo: opened})
    return _publish(state) if state.consented <= state.applied.keys() else (state, ())


def _publish(state: Releasing) -> Outcome:
    adapter, validation = next(iter(state.applied.values()))
    after = Published(state.terms, state.members, adapter, frozenset({validation}))
    return after, (CloseSpool(keep_sum=True), ReportPublished(adapter))


def _published(state: Published, event: RoundEvent) -> Outcome:
    match event:
        case SiloApplied(silo=silo, adapter=adapter) if adapter != state.adapter:
            return state, (ReportBroken(_other_adapter(state.terms.number, silo)),)
        case SiloApplied(silo=silo, validation=validation):
            said = state.validations | {validation}
            broken = (ReportBroken(_other_validation(state.terms.number, silo)),) if len(said) > 1 else ()
            return replace(state, validations=said), broken
    return state, ()


def _abort(terms: Terms, reason: str, *, certified: bool = False, silent: frozenset[str] = frozenset()) -> Outcome:
    return Aborted(terms, reason, certified), (CloseSpool(keep_sum=certified), ReportAborted(reason, silent))


def _broken(terms: Terms, reason: str) -> Outcome:
    return Aborted(terms, reason, certified=True), (CloseSpool(keep_sum=True), ReportBroken(reason))


def _after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def _extended(deadline_utc: datetime, now: datetime, grace_s: float) -> datetime:
    return max(deadline_utc, _after(now, grace_s))


def _names(silos: frozenset[str]) -> str:
    return ", ".join(sorted(silos)) or "nobody"


def _other_adapter(number: int, silo: str) -> str:
    return f"adapter digests differ after round {number}: {silo} computed another adapter than the others"


def _other_validation(number: int, silo: str) -> str:
    return f"validation sums differ after round {number}: {silo} opened others than the others did"


def _require_participant(terms: Terms, silo: str) -> None:
    if silo not in terms.participants:
        raise ProtocolError(
            f"round {terms.number}", f"{silo} is not a participant of it", "It was not accepted.", sender=silo
        )


def _contradiction(terms: Terms, silo: str, before: str) -> ProtocolError:
    why = f"{silo} {before}"
    return ProtocolError(
        f"round {terms.number}", why, "A silo submits or withdraws, once; nothing was accepted.", sender=silo
    )


def _untimely(state: RoundState, event: RoundEvent) -> ProtocolError:
    said = {
        RoundJoined: "join", UpdateStored: "update", SiloWithdrew: "withdrawal",
        SiloFingerprinted: "fingerprint", SiloConsented: "consent", SiloReleased: "release of shares",
        SiloApplied: "report of an applied adapter",
    }.get(type(event), type(event).__name__)  # fmt: skip
    return ProtocolError(
        f"round {state.terms.number}",
        f"is {phase_name(state)} and takes no {said}",
        "Ask for the round (GetRound) and go on from where it is.",
        sender=getattr(event, "silo", ""),
    )


def phase_name(state: RoundState) -> str:
    """The state in words, as in the protocol's table."""
    return type(state).__name__.upper()
