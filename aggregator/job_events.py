"""What happens to a job (past tense), and what the job machine wants done (imperative)."""

from dataclasses import dataclass

from aggregator.round_events import DeadlinePassed, Restarted
from privacy.statement import Signed

# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SiloJoined:
    """A silo's JobJoin was verified."""

    silo: str
    join: Signed


@dataclass(frozen=True)
class SiloRefused:
    """A silo's JobRefusal was verified."""

    silo: str


@dataclass(frozen=True)
class KeyDealt:
    """The dealer's deal was verified and is stored with its mails."""

    dealer: str


@dataclass(frozen=True)
class PresenceChanged:
    """Who has an open Follow stream now, and who was heard of again since the last time."""

    connected: frozenset[str]
    back: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SilosSilent:
    """These let a step of the open round pass: the next round does not wait for them until they are heard of."""

    silos: frozenset[str]


@dataclass(frozen=True)
class RoundPublished:
    """The open round gave the next global adapter."""

    adapter: bytes


@dataclass(frozen=True)
class RoundAborted:
    """The open round's number is burnt."""

    reason: str
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RoundBroken:
    """A certified sum, of this or an earlier round, led to no agreed adapter."""

    reason: str


@dataclass(frozen=True)
class CoordinatorCancelled:
    """The coordinator wants no more of it."""


JobEvent = (
    SiloJoined
    | SiloRefused
    | KeyDealt
    | PresenceChanged
    | RoundPublished
    | RoundAborted
    | RoundBroken
    | SilosSilent
    | CoordinatorCancelled
    | DeadlinePassed
    | Restarted
)

# -- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixRoll:
    """Record who is in the roll; everybody else is out of the job."""

    members: tuple[str, ...]


@dataclass(frozen=True)
class CountPresent:
    """Say who is connected (PresenceChanged)."""


@dataclass(frozen=True)
class AnnounceRound:
    """Open round `number` for `participants` on the current global adapter."""

    number: int
    participants: tuple[str, ...]
    adapter: bytes


@dataclass(frozen=True)
class CloseRound:
    """Tell the open round that its job ended."""

    reason: str


JobAction = FixRoll | CountPresent | AnnounceRound | CloseRound
