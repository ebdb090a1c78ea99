"""What one verified log says of rounds: its side when several logs are compared (compare.py)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from privacy.budget import RoundKey
from privacy.ledger.entry import AnyEntry, ReleaseEntry, RoundEntry
from privacy.ledger.verify import Report


@dataclass(frozen=True)
class Account:
    """What one verified log says of rounds."""

    origin: str
    keeps_updates: bool  # a silo's: it releases updates, an aggregator's does not
    leaves: tuple[bytes, ...] = field(repr=False)
    last_utc: str  # the latest that an entry states
    cosigned_utc: str | None  # when a witness last cosigned it; None if nobody did
    rounds: Mapping[RoundKey, RoundEntry] = field(repr=False)
    released: frozenset[RoundKey] = field(repr=False)

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
    leaves: Sequence[bytes],
    entries: Iterable[AnyEntry],
    *,
    keeps_updates: bool,
) -> Account:
    """Read the entries of a log with this report once.

    A verified log says of each round once how it ended, and that it released an update.
    """
    rounds: dict[RoundKey, RoundEntry] = {}
    released: set[RoundKey] = set()
    last = ""
    for entry in entries:
        last = max(last, entry.utc)
        match entry:
            case RoundEntry():
                rounds[entry.key] = entry
            case ReleaseEntry():
                released.add(entry.key)
            case _:
                pass
    return Account(
        origin=report.origin,
        keeps_updates=keeps_updates,
        leaves=tuple(leaves),
        last_utc=last,
        cosigned_utc=max((each.utc for each in report.witnesses or ()), default=None),
        rounds=rounds,
        released=frozenset(released),
    )
