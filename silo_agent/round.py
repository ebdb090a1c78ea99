"""One silo's way through one round: a pure machine. `runner.py` records what it says durably, then does it.

`step(state, event, now)` gives the next state and what to do; records (budget) belong into the transaction that stores
the state, actions come after it and are repeated after a restart (`Restarted`), so every action is safe to repeat.
Steps are those of docs/reference/protocol.md. A pair of state and event that TABLE does not name is our own bug.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from privacy.errors import InternalError
from privacy.plan import RoundContext
from silo_agent.round_events import (
    Action,
    CertificateChecked,
    CollectingClosed,
    CollectingOpened,
    CommitBudget,
    CommitChecked,
    CommitFingerprinted,
    EraseUpdate,
    Event,
    EvidenceRejected,
    FingerprintAccepted,
    NothingToRelease,
    OpenSum,
    PreparationFailed,
    RefundBudget,
    ReleaseSealed,
    ReleasesShown,
    ReportAccepted,
    ReservationDenied,
    ReserveBudget,
    Restarted,
    RoundAborted,
    RoundAnnounced,
    Seal,
    SealingFailed,
    SealRelease,
    SendApplied,
    SendConsent,
    SendFingerprint,
    SendJoin,
    SendRelease,
    SendUpdate,
    SendWithdrawal,
    SumOpened,
    Train,
    TrainingFailed,
    TrainingFinished,
    UpdateAccepted,
    UpdateRejected,
    UpdateSealed,
)
from silo_agent.round_states import (
    Applied,
    Burnt,
    Certified,
    Consented,
    Fingerprinted,
    Idle,
    Joined,
    Opened,
    Refused,
    Released,
    Reserved,
    Sealed,
    State,
    Submitted,
    Trained,
    Unlocked,
    Withdrawn,
)

Step = tuple[State, tuple[Action, ...]]

TABLE: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("Idle", "RoundAnnounced"): ("Joined",),
    ("Idle", "CertificateChecked"): ("Certified",),
    ("Idle", "EvidenceRejected"): ("Refused",),
    ("Joined", "CollectingOpened"): ("Reserved",),
    ("Joined", "ReservationDenied"): ("Withdrawn",),
    ("Joined", "PreparationFailed"): ("Withdrawn",),
    ("Joined", "CollectingClosed"): ("Withdrawn",),
    ("Joined", "RoundAborted"): ("Burnt",),
    ("Joined", "Restarted"): ("Joined",),
    ("Reserved", "TrainingFinished"): ("Trained", "Withdrawn"),
    ("Reserved", "TrainingFailed"): ("Withdrawn",),
    ("Reserved", "Restarted"): ("Withdrawn",),
    ("Trained", "UpdateSealed"): ("Sealed",),
    ("Trained", "SealingFailed"): ("Withdrawn",),
    ("Trained", "Restarted"): ("Withdrawn",),
    ("Sealed", "UpdateAccepted"): ("Submitted",),
    ("Sealed", "UpdateRejected"): ("Withdrawn",),
    ("Sealed", "CollectingClosed"): ("Withdrawn",),
    ("Sealed", "RoundAborted"): ("Burnt",),
    ("Sealed", "Restarted"): ("Sealed",),
    ("Submitted", "CommitFingerprinted"): ("Fingerprinted",),
    ("Submitted", "CommitChecked"): ("Consented",),
    ("Submitted", "CertificateChecked"): ("Certified",),
    ("Submitted", "EvidenceRejected"): ("Refused",),
    ("Submitted", "RoundAborted"): ("Burnt",),
    ("Submitted", "Restarted"): ("Submitted",),
    ("Fingerprinted", "CommitFingerprinted"): ("Fingerprinted",),
    ("Fingerprinted", "FingerprintAccepted"): ("Fingerprinted",),
    ("Fingerprinted", "CommitChecked"): ("Consented",),
    ("Fingerprinted", "CertificateChecked"): ("Certified",),
    ("Fingerprinted", "EvidenceRejected"): ("Refused",),
    ("Fingerprinted", "RoundAborted"): ("Burnt",),
    ("Fingerprinted", "Restarted"): ("Fingerprinted",),
    ("Withdrawn", "CommitChecked"): ("Consented",),
    ("Withdrawn", "CertificateChecked"): ("Certified",),
    ("Withdrawn", "EvidenceRejected"): ("Refused",),
    ("Withdrawn", "RoundAborted"): ("Burnt",),
    ("Withdrawn", "Restarted"): ("Withdrawn",),
    ("Consented", "CertificateChecked"): ("Certified", "Refused"),
    ("Consented", "EvidenceRejected"): ("Refused",),
    ("Consented", "RoundAborted"): ("Burnt",),
    ("Consented", "Restarted"): ("Consented",),
    ("Certified", "SumOpened"): ("Opened",),
    ("Certified", "ReleaseSealed"): ("Released",),
    ("Certified", "NothingToRelease"): ("Released",),
    ("Certified", "RoundAborted"): ("Burnt",),
    ("Certified", "EvidenceRejected"): ("Refused",),
    ("Certified", "Restarted"): ("Certified",),
    ("Released", "ReleasesShown"): ("Unlocked",),
    ("Released", "RoundAborted"): ("Burnt",),
    ("Released", "Restarted"): ("Released",),
    ("Unlocked", "SumOpened"): ("Opened",),
    ("Unlocked", "EvidenceRejected"): ("Refused",),
    ("Unlocked", "Restarted"): ("Unlocked",),
    ("Opened", "ReportAccepted"): ("Applied",),
    ("Opened", "Restarted"): ("Opened",),
}

DIED = "the agent died between reserving and sealing"


def step(state: State, event: Event, now: datetime) -> Step:
    """What comes after `event` in `state`, and what to do about it. Raises InternalError for a pair not in TABLE."""
    match state:
        case Idle():
            found = _from_idle(event, now)
        case Joined():
            found = _from_joined(state, event, now)
        case Reserved():
            found = _from_reserved(state, event, now)
        case Trained():
            found = _from_trained(state, event, now)
        case Sealed():
            found = _from_sealed(state, event, now)
        case Submitted() | Fingerprinted() | Withdrawn():
            found = _from_waiting(state, event, now)
        case Consented():
            found = _from_consented(state, event, now)
        case Certified() | Released() | Unlocked():
            found = _from_certificate(state, event, now)
        case Opened():
            found = _from_opened(state, event, now)
        case Applied() | Refused() | Burnt():
            found = None
        case _:
            assert_never(state)
    if found is None:
        names = f"{type(event).__name__} in state {type(state).__name__}"
        raise InternalError("silo round", f"{names} has no transition", "Report this; nothing was done.")
    return found


def _from_idle(event: Event, now: datetime) -> Step | None:
    match event:
        case RoundAnnounced(ctx=ctx):
            return Joined(ctx, now), (SendJoin(),)
        case CertificateChecked(ctx=ctx):
            return _certified(ctx, event, now)
        case EvidenceRejected(why=why):
            return Refused(now, why), (EraseUpdate(),)
    return None


def _from_joined(state: Joined, event: Event, now: datetime) -> Step | None:
    match event:
        case CollectingOpened():
            return Reserved(state.ctx, now), (ReserveBudget(), Train())
        case ReservationDenied(why=why) | PreparationFailed(why=why):
            return Withdrawn(state.ctx, now, why), (SendWithdrawal(),)
        case CollectingClosed():
            return Withdrawn(state.ctx, now, "the silo was not there while updates were collected"), ()
        case RoundAborted():
            return Burnt(now), (EraseUpdate(),)
        case Restarted():
            return state, (SendJoin(),)
    return None


def _from_reserved(state: Reserved, event: Event, now: datetime) -> Step | None:
    match event:
        case TrainingFinished(steps_executed=ran, noise_additions=noised, steps_planned=planned):
            if ran == noised == planned:
                return Trained(state.ctx, now, ran), (Seal(),)
            why = f"{noised} noise additions in {ran} steps ran, and the plan has {planned}"
            return Withdrawn(state.ctx, now, why), (CommitBudget(None), EraseUpdate(), SendWithdrawal())
        case TrainingFailed(steps_executed=0, why=why):
            return Withdrawn(state.ctx, now, why), (RefundBudget(), SendWithdrawal())
        case TrainingFailed(why=why):
            return Withdrawn(state.ctx, now, why), (CommitBudget(None), SendWithdrawal())
        case Restarted():
            return Withdrawn(state.ctx, now, DIED), (CommitBudget(None), SendWithdrawal())
    return None


def _from_trained(state: Trained, event: Event, now: datetime) -> Step | None:
    match event:
        case UpdateSealed():
            return Sealed(state.ctx, now), (CommitBudget(state.steps_executed), SendUpdate())
        case SealingFailed(why=why):
            return Withdrawn(state.ctx, now, why), (CommitBudget(None), EraseUpdate(), SendWithdrawal())
        case Restarted():
            return Withdrawn(state.ctx, now, DIED), (CommitBudget(None), EraseUpdate(), SendWithdrawal())
    return None


def _from_sealed(state: Sealed, event: Event, now: datetime) -> Step | None:
    match event:
        case UpdateAccepted():
            return Submitted(state.ctx, now), ()
        case UpdateRejected(why=why):
            return Withdrawn(state.ctx, now, why), ()
        case CollectingClosed():
            return Withdrawn(state.ctx, now, "the update was not confirmed in time"), ()
        case RoundAborted():
            return Burnt(now), (EraseUpdate(),)
        case Restarted():
            return state, (SendUpdate(),)
    return None


def _from_waiting(state: Submitted | Fingerprinted | Withdrawn, event: Event, now: datetime) -> Step | None:
    match state, event:
        case Submitted() | Fingerprinted(), CommitFingerprinted(commit=commit, attempt=attempt):
            return Fingerprinted(state.ctx, now, commit, attempt), (SendFingerprint(commit),)
        case Fingerprinted(), FingerprintAccepted():
            return replace(state, accepted=True), ()
        case Fingerprinted(commit=commit), Restarted():
            return state, (SendFingerprint(commit),)
    return _from_checking(state, event, now)


def _from_checking(state: Submitted | Fingerprinted | Withdrawn, event: Event, now: datetime) -> Step | None:
    match event:
        case CommitChecked(transcript=transcript):
            return Consented(state.ctx, now, transcript), (SendConsent(),)
        case CertificateChecked():
            return _certified(state.ctx, event, now)
        case EvidenceRejected(why=why):
            return Refused(now, why), (EraseUpdate(),)
        case RoundAborted():
            return Burnt(now), (EraseUpdate(),)
        case Restarted():
            return state, (SendWithdrawal(),) if isinstance(state, Withdrawn) else ()
    return None


def _from_consented(state: Consented, event: Event, now: datetime) -> Step | None:
    match event:
        case CertificateChecked(transcript=transcript) if transcript == state.transcript:
            return _certified(state.ctx, event, now)
        case CertificateChecked():
            why = "the certificate is for another transcript than the one this silo consented to"
            return Refused(now, why), (EraseUpdate(),)
        case EvidenceRejected(why=why):
            return Refused(now, why), (EraseUpdate(),)
        case RoundAborted():
            return Burnt(now), (EraseUpdate(),)
        case Restarted():
            return state, (SendConsent(),)
    return None


def _certified(ctx: RoundContext, event: CertificateChecked, now: datetime) -> Step:
    action = SealRelease() if event.keyed else OpenSum()
    return Certified(ctx, now, event.transcript, event.keyed), (action,)


def _from_certificate(state: Certified | Released | Unlocked, event: Event, now: datetime) -> Step | None:
    match state:
        case Certified(keyed=True):
            return _to_be_released(state, event, now)
        case Released():
            return _from_released(state, event, now)
    return _to_be_opened(state, event, now)


def _to_be_released(state: Certified, event: Event, now: datetime) -> Step | None:
    match event:
        case ReleaseSealed():
            return Released(state.ctx, now, state.transcript), (SendRelease(),)
        case NothingToRelease():
            return Released(state.ctx, now, state.transcript), ()
        case RoundAborted():
            return Burnt(now), (EraseUpdate(),)
        case Restarted():
            return state, (SealRelease(),)
    return None


def _from_released(state: Released, event: Event, now: datetime) -> Step | None:
    match event:
        case ReleasesShown():
            return Unlocked(state.ctx, now, state.transcript), (OpenSum(),)
        case RoundAborted():  # too few released: nobody can have opened the sum
            return Burnt(now), (EraseUpdate(),)
        case Restarted():
            return state, (SendRelease(),)
    return None


def _to_be_opened(state: Certified | Unlocked, event: Event, now: datetime) -> Step | None:
    match event:
        case SumOpened(adapter_digest=adapter, validation=sums):
            return Opened(state.ctx, now, adapter, sums), (SendApplied(),)
        case EvidenceRejected(why=why):
            return Refused(now, why), (EraseUpdate(),)
        case Restarted():
            return state, (OpenSum(),)
    return None


def _from_opened(state: Opened, event: Event, now: datetime) -> Step | None:
    match event:
        case ReportAccepted():
            return Applied(state.ctx, now, state.adapter_digest), (EraseUpdate(),)
        case Restarted():
            return state, (SendApplied(),)
    return None
