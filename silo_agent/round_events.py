"""What happens in a silo's round (events, past tense) and what to do about it (records and actions, imperatives)."""

from collections.abc import Mapping
from dataclasses import dataclass

from privacy.plan import RoundContext

# -- Events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundAnnounced:
    """The announcement was checked: this plan, this silo's own adapter, pinned peers."""

    ctx: RoundContext


@dataclass(frozen=True)
class CollectingOpened:
    """All participants joined."""


@dataclass(frozen=True)
class CollectingClosed:
    """The aggregator takes no more updates for this round."""


@dataclass(frozen=True)
class ReservationDenied:
    """Budget or approval do not allow the round; that is on record."""

    why: str


@dataclass(frozen=True)
class PreparationFailed:
    """Data, model or self-test do not let this process train; nothing was reserved."""

    why: str


@dataclass(frozen=True)
class TrainingFinished:
    """The mechanism ran, by the engine's own count; 0 of all where there is none (a rehearsal)."""

    steps_executed: int
    noise_additions: int
    steps_planned: int


@dataclass(frozen=True)
class TrainingFailed:
    """Training stopped after this many steps, or did not do what the plan says."""

    steps_executed: int
    why: str


@dataclass(frozen=True)
class UpdateSealed:
    """The sealed update is in the outbox, durably; `parts` is what its header says of it, by field."""

    parts: Mapping[str, str]


@dataclass(frozen=True)
class SealingFailed:
    """Nothing of the update is in the outbox (the disk is full, for instance)."""

    why: str


@dataclass(frozen=True)
class UpdateAccepted:
    """The aggregator confirmed the whole update."""


@dataclass(frozen=True)
class UpdateRejected:
    """The aggregator refused the update for good."""

    why: str


@dataclass(frozen=True)
class CommitFingerprinted:
    """A commit and its headers hold, with this silo's update in it; `value` is the fingerprint that it draws.

    `unopened` are members of the sum whose share mail to this silo is of no use.
    """

    commit: bytes
    attempt: int
    value: str
    unopened: tuple[str, ...] = ()


@dataclass(frozen=True)
class FingerprintAccepted:
    """The aggregator has this silo's fingerprint and found it right."""


@dataclass(frozen=True)
class CommitChecked:
    """Commit, headers, fingerprints and sum hold, and this silo's own update is in as it must be."""

    transcript: bytes


@dataclass(frozen=True)
class CertificateChecked:
    """Enough participants consented to this transcript, whose commit, headers and sum hold.

    `keyed`: it opens once enough of them released their sums of shares.
    """

    ctx: RoundContext
    transcript: bytes
    keyed: bool = False


@dataclass(frozen=True)
class ReleaseSealed:
    """The sealed sum of this silo's shares is in the vault, durably; `parts` is what its Release says of it."""

    parts: Mapping[str, str]


@dataclass(frozen=True)
class NothingToRelease:
    """This silo holds no shares, or not of every member: the others open the sum, and it opens theirs."""


@dataclass(frozen=True)
class ReleasesShown:
    """Enough participants released theirs."""


@dataclass(frozen=True)
class EvidenceRejected:
    """A commit, a sum or a certificate does not hold."""

    why: str


@dataclass(frozen=True)
class SumOpened:
    """The next global adapter was computed and is on disk; validation sums are empty where the plan has none."""

    adapter_digest: bytes
    validation: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReportAccepted:
    """The aggregator has this silo's digest of the next adapter."""


@dataclass(frozen=True)
class RoundAborted:
    """The aggregator gave the round up."""


@dataclass(frozen=True)
class Restarted:
    """The agent started and found the round in its journal."""


Event = (
    RoundAnnounced
    | CollectingOpened
    | CollectingClosed
    | ReservationDenied
    | PreparationFailed
    | TrainingFinished
    | TrainingFailed
    | UpdateSealed
    | SealingFailed
    | UpdateAccepted
    | UpdateRejected
    | CommitFingerprinted
    | FingerprintAccepted
    | CommitChecked
    | CertificateChecked
    | ReleaseSealed
    | NothingToRelease
    | ReleasesShown
    | EvidenceRejected
    | SumOpened
    | ReportAccepted
    | RoundAborted
    | Restarted
)

# -- Records and actions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReserveBudget:
    """Record: what the round will cost, before the first gradient."""


@dataclass(frozen=True)
class CommitBudget:
    """Record: the reservation is spent in full: on an update of so many steps, or, with None, on what may have run."""

    steps_executed: int | None


@dataclass(frozen=True)
class RefundBudget:
    """Record: nothing was trained on the reservation."""


@dataclass(frozen=True)
class Train:
    """Run the mechanism once."""


@dataclass(frozen=True)
class Seal:
    """Quantise, encrypt and store the update."""


@dataclass(frozen=True)
class SendJoin:
    """Send the stored RoundJoin."""


@dataclass(frozen=True)
class SendUpdate:
    """Send the stored header, seeds and residues."""


@dataclass(frozen=True)
class SendWithdrawal:
    """Tell the others not to wait."""


@dataclass(frozen=True)
class SendFingerprint:
    """Send the stored fingerprint under this commit."""

    commit: bytes


@dataclass(frozen=True)
class SendConsent:
    """Send the stored Consent."""


@dataclass(frozen=True)
class SealRelease:
    """Seal the sum of this silo's shares to the silos of the job."""


@dataclass(frozen=True)
class SendRelease:
    """Send the stored Release and what it is of."""


@dataclass(frozen=True)
class OpenSum:
    """Open the sum, compute the next adapter, store it."""


@dataclass(frozen=True)
class SendApplied:
    """Send the stored Applied."""


@dataclass(frozen=True)
class EraseUpdate:
    """Take the sealed bytes and the fetched sum off the disk."""


Record = ReserveBudget | CommitBudget | RefundBudget
Action = (
    Record
    | Train
    | Seal
    | SendJoin
    | SendUpdate
    | SendWithdrawal
    | SendFingerprint
    | SendConsent
    | SealRelease
    | SendRelease
    | OpenSum
    | SendApplied
    | EraseUpdate
)
RECORDS = (ReserveBudget, CommitBudget, RefundBudget)
