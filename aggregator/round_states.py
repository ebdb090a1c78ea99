"""Where a round stands at the aggregator. Each state follows from its row in the database and the statements."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from privacy.plan import Deadlines


@dataclass(frozen=True)
class Terms:
    """What is fixed when a round is announced."""

    number: int
    participants: tuple[str, ...]
    minimum: int
    threshold: int
    deadlines: Deadlines


@dataclass(frozen=True)
class Announced:
    """Step 0: the context is proposed; participants sign it or not."""

    terms: Terms
    deadline_utc: datetime
    joined: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Collecting:
    """Step 1: updates come in."""

    terms: Terms
    deadline_utc: datetime
    submitted: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fingerprinting:
    """Steps 2 to 4: the sum is fixed and signed; its members show the fingerprints of what they sent."""

    terms: Terms
    deadline_utc: datetime
    members: tuple[str, ...]
    attempt: int = 1
    answered: frozenset[str] = frozenset()
    wrong: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Committed:
    """Step 5: all fingerprints are there; participants check them and the sum, and consent."""

    terms: Terms
    deadline_utc: datetime
    members: tuple[str, ...]
    consented: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Releasing:
    """Step 6: a certificate exists; silos open the sum and report the digest of what came of it."""

    terms: Terms
    deadline_utc: datetime
    members: tuple[str, ...]
    consented: frozenset[str]
    applied: Mapping[str, bytes]


@dataclass(frozen=True)
class Published:
    """The next global adapter is agreed. Late consents and reports are still taken down."""

    terms: Terms
    members: tuple[str, ...]
    adapter: bytes


@dataclass(frozen=True)
class Aborted:
    """Burnt: this number is never used again. With a certificate the round counts as opened all the same."""

    terms: Terms
    reason: str
    certified: bool


RoundState = Announced | Collecting | Fingerprinting | Committed | Releasing | Published | Aborted
OPEN_ROUND = (Announced, Collecting, Fingerprinting, Committed, Releasing)
