"""Where a silo stands in a round. Each state is stored, as canonical JSON, before anything follows from it."""

from dataclasses import dataclass
from datetime import datetime

from privacy.plan import RoundContext


@dataclass(frozen=True)
class Idle:
    """Nothing was said about this round number."""


@dataclass(frozen=True)
class Joined:
    """Step 0: the silo signed this context, and will sign no other for this round number."""

    ctx: RoundContext
    since_utc: datetime


@dataclass(frozen=True)
class Reserved:
    """The budget of the round is reserved; training may have begun."""

    ctx: RoundContext
    since_utc: datetime


@dataclass(frozen=True)
class Trained:
    """The noised update of so many steps exists in memory only."""

    ctx: RoundContext
    since_utc: datetime
    steps_executed: int


@dataclass(frozen=True)
class Sealed:
    """The sealed update lies in the outbox, its cost is spent, its header is signed."""

    ctx: RoundContext
    since_utc: datetime


@dataclass(frozen=True)
class Submitted:
    """Step 1: the aggregator has the whole update."""

    ctx: RoundContext
    since_utc: datetime


@dataclass(frozen=True)
class Fingerprinted:
    """Step 3: the silo signed the fingerprint of its ciphertext under this commit."""

    ctx: RoundContext
    since_utc: datetime
    commit: bytes
    attempt: int
    accepted: bool = False


@dataclass(frozen=True)
class Withdrawn:
    """The silo sends nothing (more) in this round; it still checks the sum and consents."""

    ctx: RoundContext
    since_utc: datetime
    why: str


@dataclass(frozen=True)
class Consented:
    """Step 5: the silo signed consent to this transcript, and will to no other."""

    ctx: RoundContext
    since_utc: datetime
    transcript: bytes


@dataclass(frozen=True)
class Certified:
    """Step 6: the certificate was checked and stored; the sum may be opened, or if `keyed` its keys released."""

    ctx: RoundContext
    since_utc: datetime
    transcript: bytes
    keyed: bool = False


@dataclass(frozen=True)
class Released:
    """Step 6 with one-time keys: the silo sealed the sum of its shares, if it has one, and will no other."""

    ctx: RoundContext
    since_utc: datetime
    transcript: bytes


@dataclass(frozen=True)
class Unlocked:
    """Step 7: enough silos released theirs; the sum may be opened."""

    ctx: RoundContext
    since_utc: datetime
    transcript: bytes


@dataclass(frozen=True)
class Opened:
    """The next global adapter is on disk; its digest is signed, and the opened validation sums if there are any."""

    ctx: RoundContext
    since_utc: datetime
    adapter_digest: bytes
    validation: tuple[int, ...] = ()


@dataclass(frozen=True)
class Applied:
    """Step 8, the end: the aggregator has the digest."""

    ctx: RoundContext
    since_utc: datetime
    adapter_digest: bytes


@dataclass(frozen=True)
class Refused:
    """An end: the evidence did not hold; this silo neither consents to the round nor opens it."""

    since_utc: datetime
    why: str


@dataclass(frozen=True)
class Burnt:
    """An end: the round was aborted; its number is never used again."""

    since_utc: datetime


State = (
    Idle
    | Joined
    | Reserved
    | Trained
    | Sealed
    | Submitted
    | Fingerprinted
    | Withdrawn
    | Consented
    | Certified
    | Released
    | Unlocked
    | Opened
    | Applied
    | Refused
    | Burnt
)
ENDS = (Applied, Refused, Burnt)
