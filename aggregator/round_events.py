"""What happens to a round (past tense), and what the round machine wants done (imperative)."""

from dataclasses import dataclass

# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundJoined:
    """A participant's RoundJoin was verified."""

    silo: str


@dataclass(frozen=True)
class UpdateStored:
    """A participant's update was verified whole and is on disk."""

    silo: str


@dataclass(frozen=True)
class SiloWithdrew:
    """A participant's Withdrawal was verified."""

    silo: str


@dataclass(frozen=True)
class SiloFingerprinted:
    """A member's Fingerprint under the current commit was verified; `holds`: it is that of the update it sent."""

    silo: str
    holds: bool
    unopened: frozenset[str] = frozenset()  # members whose share mails to it are of no use


@dataclass(frozen=True)
class SiloConsented:
    """A participant's Consent to this round's transcript was verified."""

    silo: str


@dataclass(frozen=True)
class SiloReleased:
    """A participant's Release for this round's transcript was verified and is on disk."""

    silo: str


@dataclass(frozen=True)
class SiloApplied:
    """A participant reported the digest of its next global adapter, and the validation sums that it opened."""

    silo: str
    adapter: bytes
    validation: tuple[int, ...] = ()


@dataclass(frozen=True)
class DeadlinePassed:
    """The moment `now` was reached. Without effect before the state's deadline."""


@dataclass(frozen=True)
class JobClosed:
    """The job ended under the round."""

    reason: str


@dataclass(frozen=True)
class Restarted:
    """The aggregator is back: silos get at least `grace_s` seconds for what they could not send meanwhile."""

    grace_s: float


RoundEvent = (
    RoundJoined
    | UpdateStored
    | SiloWithdrew
    | SiloFingerprinted
    | SiloConsented
    | SiloReleased
    | SiloApplied
    | DeadlinePassed
    | JobClosed
    | Restarted
)

# -- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommitSum:
    """Fix and sign the sum over `members`, durably, before anybody hears of it; it replaces the attempt before."""

    members: tuple[str, ...]
    attempt: int = 1


@dataclass(frozen=True)
class ReportPublished:
    """Tell the job machine that the round gave its next global adapter."""

    adapter: bytes


@dataclass(frozen=True)
class ReportAborted:
    """Tell the job machine that the number is burnt, and which participants kept silent."""

    reason: str
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ReportBroken:
    """Tell the job machine that the job cannot go on: no agreed adapter came of a certified sum."""

    reason: str


@dataclass(frozen=True)
class ReportLeftOut:
    """Tell the job machine, and the log, whose update a new commit leaves out: no fingerprint came, or a wrong one,
    or too many silos could not open their share mails.
    """

    silent: frozenset[str]
    wrong: frozenset[str]


@dataclass(frozen=True)
class CloseSpool:
    """Remove what was staged; with `keep_sum` the sum and its seeds stay for silos that catch up."""

    keep_sum: bool


RoundAction = CommitSum | ReportPublished | ReportAborted | ReportBroken | ReportLeftOut | CloseSpool
