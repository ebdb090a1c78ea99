"""The aggregator's job machine: pure, no clock, no file, no network. See aggregator/round.py for the form.

`Gathering` and `Running` are both the protocol's RUNNING: between rounds silos are waited for, then a round is open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from aggregator.job_events import (
    AnnounceRound,
    CloseRound,
    CoordinatorCancelled,
    CountPresent,
    FixRoll,
    JobAction,
    JobEvent,
    KeyDealt,
    PresenceChanged,
    RoundAborted,
    RoundBroken,
    RoundPublished,
    SiloJoined,
    SiloRefused,
    SilosSilent,
)
from aggregator.round_events import DeadlinePassed, Restarted
from privacy.errors import InternalError, ProtocolError
from privacy.plan import JobPlan
from privacy.roll import Roll, check_roll, dealer_of
from privacy.statement import Signed

# -- states -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joining:
    """Silos decide."""

    plan: JobPlan
    deadline_utc: datetime
    joins: Mapping[str, Signed]
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Dealing:
    """The roll is fixed; its dealer is to mail the cohort's key."""

    plan: JobPlan
    deadline_utc: datetime
    roll: Roll

    @property
    def dealer(self) -> str:
        """Whose turn it is."""
        return dealer_of(self.plan.digest(), self.roll)


@dataclass(frozen=True)
class Progress:
    """What the rounds so far came to."""

    adapter: bytes  # digest of the current global adapter
    last_round: int = 0  # the highest number used, burnt or not
    published: int = 0
    absent: frozenset[str] = frozenset()  # kept silent; not waited for until heard of again


@dataclass(frozen=True)
class Gathering:
    """Between rounds: waits for the roll's members to be connected."""

    plan: JobPlan
    members: tuple[str, ...]
    progress: Progress
    deadline_utc: datetime | None  # None once it has passed: the minimum is enough
    connected: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Running:
    """Round `progress.last_round` is open."""

    plan: JobPlan
    members: tuple[str, ...]
    progress: Progress


@dataclass(frozen=True)
class Finished:
    """All planned rounds are published."""

    plan: JobPlan


@dataclass(frozen=True)
class Stopped:
    """Gave up."""

    plan: JobPlan
    reason: str


@dataclass(frozen=True)
class Cancelled:
    """The coordinator ended it."""

    plan: JobPlan


JobState = Joining | Dealing | Gathering | Running | Finished | Stopped | Cancelled
OPEN_JOB = (Joining, Dealing, Gathering, Running)

Outcome = tuple[JobState, tuple[JobAction, ...]]

TABLE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("Joining", "SiloJoined"): ("Joining", "Dealing", "Gathering", "Stopped"),
    ("Joining", "SiloRefused"): ("Joining", "Dealing", "Gathering", "Stopped"),
    ("Joining", "DeadlinePassed"): ("Joining", "Dealing", "Gathering", "Stopped"),
    ("Joining", "CoordinatorCancelled"): ("Cancelled",),
    ("Joining", "Restarted"): ("Joining",),
    ("Dealing", "KeyDealt"): ("Gathering",),
    ("Dealing", "DeadlinePassed"): ("Dealing", "Stopped"),
    ("Dealing", "CoordinatorCancelled"): ("Cancelled",),
    ("Dealing", "Restarted"): ("Dealing",),
    ("Gathering", "PresenceChanged"): ("Gathering", "Running"),
    ("Gathering", "DeadlinePassed"): ("Gathering", "Running"),
    ("Gathering", "RoundBroken"): ("Stopped",),
    ("Gathering", "CoordinatorCancelled"): ("Cancelled",),
    ("Gathering", "Restarted"): ("Gathering",),
    ("Running", "PresenceChanged"): ("Running",),
    ("Running", "SilosSilent"): ("Running",),
    ("Running", "RoundPublished"): ("Gathering", "Finished", "Stopped"),
    ("Running", "RoundAborted"): ("Gathering", "Stopped"),
    ("Running", "RoundBroken"): ("Stopped",),
    ("Running", "CoordinatorCancelled"): ("Cancelled",),
    ("Running", "Restarted"): ("Running",),
}


def submit(plan: JobPlan, now: datetime) -> Joining:
    """A job's first state."""
    return Joining(plan, now + timedelta(seconds=plan.deadlines.join_job_s), {})


def step(state: JobState, event: JobEvent, now: datetime) -> Outcome:
    """The next state, and the actions that must succeed before it counts.

    Raises ProtocolError when a party says something that the job is not at, InternalError when an event of our own
    does not fit; nothing changes then.
    """
    if (type(state).__name__, type(event).__name__) not in TABLE:
        raise _untimely(state, event)
    if isinstance(event, CoordinatorCancelled):
        open_round = isinstance(state, Running)
        return Cancelled(state.plan), (CloseRound("the coordinator cancelled the job"),) if open_round else ()
    match state:
        case Joining():
            return _joining(state, event, now)
        case Dealing():
            return _dealing(state, event, now)
        case Gathering():
            return _gathering(state, event, now)
        case Running():
            return _running(state, event, now)
        case Finished() | Stopped() | Cancelled():
            return state, ()
    assert_never(state)


def _joining(state: Joining, event: JobEvent, now: datetime) -> Outcome:
    match event:
        case SiloJoined(silo=silo) if silo in state.refused:
            raise _contradiction(silo, "refused the job before")
        case SiloRefused(silo=silo) if silo in state.joins:
            raise _contradiction(silo, "has joined the job")
        case SiloJoined(silo=silo, join=join):
            return _settle(replace(state, joins={**state.joins, silo: join}), now)
        case SiloRefused(silo=silo):
            return _settle(replace(state, refused=state.refused | {silo}), now)
        case DeadlinePassed() if now >= state.deadline_utc:
            return _fix_roll(state.plan, state.joins, now)
        case Restarted(grace_s=grace_s):
            return replace(state, deadline_utc=_extended(state.deadline_utc, now, grace_s)), ()
    return state, ()


def _settle(state: Joining, now: datetime) -> Outcome:
    """Go on once every silo of the roster has joined or refused."""
    if state.joins.keys() | state.refused == state.plan.identity_keys.keys():
        return _fix_roll(state.plan, state.joins, now)
    return state, ()


def _fix_roll(plan: JobPlan, joins: Mapping[str, Signed], now: datetime, why: str = "") -> Outcome:
    least = plan.least_participants
    if len(joins) < least:
        return Stopped(plan, f"{why}{len(joins)} silos are in; of {len(plan.cohort.roster)} it takes {least}"), ()
    roll = check_roll(plan, joins.values())
    if plan.suite.keyed:  # nobody deals: keys are made for each round
        following, actions = gather(plan, roll.members, _beginning(plan), now)
        return following, (FixRoll(roll.members), *actions)
    return Dealing(plan, _after(now, plan.deadlines.join_job_s), roll), (FixRoll(roll.members),)


def _dealing(state: Dealing, event: JobEvent, now: datetime) -> Outcome:
    match event:
        case KeyDealt(dealer=dealer) if dealer != state.dealer:
            raise ProtocolError(
                "key deal", f"comes from {dealer}; this roll's dealer is {state.dealer}", "It was not accepted.",
                sender=dealer, step="deal",
            )  # fmt: skip
        case KeyDealt():
            return gather(state.plan, state.roll.members, _beginning(state.plan), now)
        case DeadlinePassed() if now >= state.deadline_utc:
            joins = dict(zip(state.roll.members, state.roll.joins, strict=True))
            dealer = state.dealer
            del joins[dealer]
            return _fix_roll(state.plan, joins, now, f"{dealer} dealt no key in time; ")
        case Restarted(grace_s=grace_s):
            return replace(state, deadline_utc=_extended(state.deadline_utc, now, grace_s)), ()
    return state, ()


def _beginning(plan: JobPlan) -> Progress:
    return Progress(bytes.fromhex(plan.initial_adapter))


def gather(plan: JobPlan, members: tuple[str, ...], progress: Progress, now: datetime) -> Outcome:
    """Wait for silos: before the first round, and after each one."""
    deadline_utc = _after(now, plan.deadlines.join_round_s)
    return Gathering(plan, members, progress, deadline_utc), (CountPresent(),)


def _gathering(state: Gathering, event: JobEvent, now: datetime) -> Outcome:
    match event:
        case PresenceChanged(connected=connected, back=back):
            progress = replace(state.progress, absent=state.progress.absent - back)
            return _announce(replace(state, connected=connected, progress=progress))
        case DeadlinePassed() if state.deadline_utc is not None and now >= state.deadline_utc:
            return _announce(replace(state, deadline_utc=None))
        case RoundBroken(reason=reason):
            return Stopped(state.plan, reason), ()
        case Restarted(grace_s=grace_s):
            deadline_utc = _extended(state.deadline_utc or now, now, grace_s)
            return replace(state, deadline_utc=deadline_utc, connected=frozenset()), (CountPresent(),)
    return state, ()


def _announce(state: Gathering) -> Outcome:
    """Step 0: all members that are waited for, or after the deadline at least the minimum."""
    least = state.plan.least_participants
    here = state.connected & frozenset(state.members)
    chosen = here - state.progress.absent
    if len(chosen) < least:
        chosen = here
    waited_for = frozenset(state.members) - state.progress.absent
    if len(chosen) < least or (state.deadline_utc is not None and not waited_for <= chosen):
        return state, ()
    number = state.progress.last_round + 1
    absent = frozenset(state.members) - chosen
    progress = replace(state.progress, last_round=number, absent=absent)
    announce = AnnounceRound(number, tuple(sorted(chosen)), progress.adapter)
    return Running(state.plan, state.members, progress), (announce,)


def _running(state: Running, event: JobEvent, now: datetime) -> Outcome:
    progress = state.progress
    outcome: Outcome = state, ()
    match event:
        case PresenceChanged(back=back):
            outcome = replace(state, progress=replace(progress, absent=progress.absent - back)), ()
        case SilosSilent(silos=silos):
            outcome = replace(state, progress=replace(progress, absent=progress.absent | silos)), ()
        case RoundPublished(adapter=adapter):
            outcome = _published(state, replace(progress, adapter=adapter, published=progress.published + 1), now)
        case RoundAborted(reason=reason, silent=silent):
            outcome = _next_round(state, replace(progress, absent=progress.absent | silent), now, reason)
        case RoundBroken(reason=reason):
            outcome = Stopped(state.plan, reason), (CloseRound(reason),)
    return outcome


def _published(state: Running, progress: Progress, now: datetime) -> Outcome:
    if progress.published == state.plan.rounds:
        return Finished(state.plan), ()
    return _next_round(state, progress, now, "")


def _next_round(state: Running, progress: Progress, now: datetime, trouble: str) -> Outcome:
    attempts = state.plan.round_attempts
    if progress.last_round < attempts:
        return gather(state.plan, state.members, progress, now)
    last = f"; the last: {trouble}" if trouble else ""
    reason = f"{progress.published} of {state.plan.rounds} rounds were published in {attempts} attempts{last}"
    return Stopped(state.plan, reason), ()


def _after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def _extended(deadline_utc: datetime, now: datetime, grace_s: float) -> datetime:
    return max(deadline_utc, _after(now, grace_s))


def _contradiction(silo: str, before: str) -> ProtocolError:
    return ProtocolError(
        "job", f"{silo} {before}", "A silo joins or refuses, once; nothing was accepted.", sender=silo, step="join"
    )


def _untimely(state: JobState, event: JobEvent) -> ProtocolError | InternalError:
    what = f"job {state.plan.name}"
    match event:
        case SiloJoined() | SiloRefused() | KeyDealt() | CoordinatorCancelled():
            why = f"is {type(state).__name__.upper()}: too late for this"
            return ProtocolError(what, why, "Ask for the job (GetJob, `cloister aggregator watch`).")
    return InternalError(what, f"{type(event).__name__} in {type(state).__name__}", "Report this; nothing was done.")
