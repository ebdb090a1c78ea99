"""Where a round stands at the aggregator. Each state follows from its row in the database and the statements."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from privacy.plan import Deadlines


@dataclass(frozen=True)
class Terms:
    """What is fixed when a round is announced."""

    number: int
    participants: tuple[str, ...]
    minimum: int
    threshold: int
    colluders: int
    keyed: bool  # keys are made for the round: shares of them are released before its sum opens
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
    unopened: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by member: whose mails it cannot open

    @property
    def blamed(self) -> frozenset[str]:
        """Members whose share mails more silos could not open than may collude: one of them at least is honest."""
        told = Counter(name for named in self.unopened.values() for name in named)
        return frozenset(name for name, count in told.items() if count > self.terms.colluders)


@dataclass(frozen=True)
class Committed:
    """Step 5: all fingerprints are there; participants check them and the sum, and consent."""

    terms: Terms
    deadline_utc: datetime
    members: tuple[str, ...]
    consented: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sharing:
    """Step 6 with one-time keys: a certificate exists; participants release their sums of shares."""

    terms: Terms
    deadline_utc: datetime
    members: tuple[str, ...]
    consented: frozenset[str]
    released: frozenset[str] = frozenset()


class Opened(NamedTuple):
    """What a silo made of a round's sum: the digest of the next global adapter, and the validation sums."""

    adapter: bytes
    validation: tuple[int, ...] = ()


@dataclass(frozen=True)
class Releasing:
    """Steps 6 to 8: the sum can be opened; silos do, and report the digest of what came of it."""

    terms: Terms
    deadline_utc: datetime
    members: tuple[str, ...]
    consented: frozenset[str]
    applied: Mapping[str, Opened]


@dataclass(frozen=True)
class Published:
    """The next global adapter is agreed. Late consents and reports are still taken down.

    `validations` are the sums that silos reported with it: one, unless the job is broken.
    """

    terms: Terms
    members: tuple[str, ...]
    adapter: bytes
    validations: frozenset[tuple[int, ...]]


@dataclass(frozen=True)
class Aborted:
    """Burnt: this number is never used again. `certified`: its sum could be opened, so it counts as opened."""

    terms: Terms
    reason: str
    certified: bool


RoundState = Announced | Collecting | Fingerprinting | Committed | Sharing | Releasing | Published | Aborted
OPEN_ROUND = (Announced, Collecting, Fingerprinting, Committed, Sharing, Releasing)
