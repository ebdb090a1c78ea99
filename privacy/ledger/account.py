"""What one verified log says of rounds, and of others: its side when several logs are compared (compare.py)."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from privacy.budget import RoundKey
from privacy.ledger.entry import AnyEntry, ReleaseEntry, RoundEntry
from privacy.ledger.evidence import Evidence
from privacy.ledger.verify import Report
from privacy.plan import JobPlan
from privacy.record import RoundRecord


@dataclass(frozen=True)
class PlanKeys:
    """The identity keys (hex) by which a plan names its silos and its aggregator; when a log first spoke of its job."""

    first_utc: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Account:
    """What one verified log says of rounds, and its evidence of others."""

    origin: str
    keeps_updates: bool  # a silo's: it releases updates, an aggregator's does not
    keys: tuple[str, ...]  # all that the log has had, raw Ed25519, hex
    leaves: tuple[bytes, ...] = field(repr=False)
    last_utc: str  # the latest that an entry states
    cosigned_utc: str | None  # when a witness last cosigned it; None if nobody did
    rounds: Mapping[RoundKey, RoundEntry] = field(repr=False)
    released: Mapping[RoundKey, str] = field(repr=False)  # SHA-256 of the update's signed header's body
    updates: Mapping[RoundKey, Mapping[str, str]] = field(repr=False)  # the same by silo, from rounds' transcripts
    plans: Mapping[str, PlanKeys] = field(repr=False)  # by job

    @property
    def institution(self) -> str:
        """Whose log it is."""
        return self.origin.rpartition("/")[2]

    @property
    def until_utc(self) -> str:
        """How far the log goes: by its own entries or, if that is later, by a witness who saw no more of it then."""
        return max(self.last_utc, self.cosigned_utc or "")

    def goes_on_after(self, key: RoundKey, ended_utc: str) -> bool:
        """Whether it shows that it goes on after this round: by a time, or since it names a later round of the job."""
        return self.until_utc > ended_utc or self._last_rounds.get(key.job, -1) > key.round_number

    @cached_property
    def _last_rounds(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for key in self.rounds:
            last[key.job] = max(last.get(key.job, -1), key.round_number)
        return last


def account_of(
    report: Report,
    keys: Iterable[bytes],
    leaves: Sequence[bytes],
    entries: Iterable[AnyEntry],
    evidence: Evidence,
    *,
    keeps_updates: bool,
) -> Account:
    """Read the entries of a log with this report once, and the evidence that was verified with it.

    A verified log says of each round once how it ended, and that it released an update.
    """
    rounds: dict[RoundKey, RoundEntry] = {}
    released: dict[RoundKey, str] = {}
    updates: dict[RoundKey, dict[str, str]] = {}
    jobs: dict[str, str] = {}
    for entry in entries:
        job = getattr(entry, "job", None)
        if job is not None:
            jobs.setdefault(job, entry.utc)
        match entry:
            case RoundEntry():
                rounds[entry.key] = entry
                if entry.key in evidence.transcripts:
                    updates[entry.key] = _updates(entry, evidence.transcripts[entry.key])
            case ReleaseEntry():
                released[entry.key] = entry.ciphertext_sha256
            case _:
                pass
    return Account(
        origin=report.origin,
        keeps_updates=keeps_updates,
        keys=tuple(key.hex() for key in keys),
        leaves=tuple(leaves),
        last_utc=report.last_utc or "",
        cosigned_utc=max((each.utc for each in report.witnesses or ()), default=None),
        rounds=rounds,
        released=released,
        updates=updates,
        plans={job: PlanKeys(jobs[job], _keys(plan)) for job, plan in evidence.plans.items()},
    )


def _updates(entry: RoundEntry, transcript: bytes) -> dict[str, str]:
    """Headers stand in the order of the members, which are the entry's: the verifier compared them."""
    headers = RoundRecord.decode(transcript).headers
    return {
        silo: hashlib.sha256(header.signed.body).hexdigest()
        for silo, header in zip(entry.members, headers, strict=True)
    }


def _keys(plan: bytes) -> dict[str, str]:
    decoded = JobPlan.decode(plan)
    silos = {name: key.hex() for name, key in decoded.identity_keys.items()}
    return silos | {decoded.aggregator.name: decoded.aggregator.identity_key}
