"""Several institutions' logs side by side: what one says of a round and another denies, and logs that forked.

Each log was verified by itself before (privacy.ledger.verify). A log proves that its owner said something, and in which
order; here is what owners say of one another.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from privacy.budget import RoundKey
from privacy.ledger.entry import AnyEntry, ReleaseEntry, RoundEntry
from privacy.ledger.merkle import root

COMPARED = ("members", "transcript_sha256", "sum_sha256", "adapter_before_sha256", "adapter_after_sha256")


@dataclass(frozen=True)
class Account:
    """What one verified log says of rounds."""

    origin: str
    keeps_updates: bool  # a silo's: it releases updates, an aggregator's does not
    leaves: tuple[bytes, ...] = field(repr=False)
    last_utc: str
    rounds: Mapping[RoundKey, RoundEntry] = field(repr=False)
    released: frozenset[RoundKey] = field(repr=False)

    @property
    def institution(self) -> str:
        """Whose log it is."""
        return self.origin.rpartition("/")[2]


@dataclass(frozen=True)
class Disagreement:
    """What two logs cannot both be right about, or one of them leaves out. `key`: the round, if it is about one."""

    key: RoundKey | None
    who: tuple[str, ...]
    what: str


def account_of(origin: str, leaves: Sequence[bytes], entries: Iterable[AnyEntry], *, keeps_updates: bool) -> Account:
    """Read a log's entries once. A verified log says of each round once how it ended."""
    rounds: dict[RoundKey, RoundEntry] = {}
    released: set[RoundKey] = set()
    last = ""
    for entry in entries:
        last = entry.utc
        match entry:
            case RoundEntry():
                rounds[entry.key] = entry
            case ReleaseEntry():
                released.add(entry.key)
            case _:
                pass
    return Account(origin, keeps_updates, tuple(leaves), last, rounds, frozenset(released))


def compare(accounts: Sequence[Account]) -> tuple[Disagreement, ...]:
    """Every disagreement, rounds first, in the order of jobs and numbers.

    A round that a log has nothing of counts only against an institution whose update the others say is in its sum, and
    the aggregator, and only if its log goes on after the round: an older export is no denial.
    """
    keys = {key for account in accounts for key in account.rounds}
    found = [
        each for key in sorted(keys, key=lambda key: (key.job, key.round_number)) for each in _round(key, accounts)
    ]
    by_origin = defaultdict(list)
    for account in accounts:
        by_origin[account.origin].append(account)
    return (*found, *(each for same in by_origin.values() for each in _forks(same)))


def _round(key: RoundKey, accounts: Sequence[Account]) -> Iterator[Disagreement]:
    said = {account.institution: account.rounds[key] for account in accounts if key in account.rounds}
    published = {who: entry for who, entry in said.items() if entry.outcome == "published"}
    if not published:
        return
    for name in COMPARED:
        values = defaultdict(list)
        for who, entry in published.items():
            values[getattr(entry, name)].append(who)
        if len(values) > 1:
            groups = "; ".join(f"{', '.join(who)}: {_short(value)}" for value, who in values.items())
            yield Disagreement(key, tuple(published), f"{name} differs ({groups})")
    members = {member for entry in published.values() for member in entry.members}
    ended = min(entry.utc for entry in published.values())
    for account in accounts:
        who = account.institution
        if account.keeps_updates and who in members and key not in account.released and account.last_utc > ended:
            yield Disagreement(key, (who, *published), f"an update of {who} is in the sum, and its log released none")
        if who in published or (account.keeps_updates and who not in members) or account.last_utc <= ended:
            continue
        outcome = "ended aborted" if who in said else "is not spoken of"
        yield Disagreement(key, (who, *published), f"{outcome} in the log of {who}, and published elsewhere")


def _forks(same: Sequence[Account]) -> Iterator[Disagreement]:
    """Of one institution's exports, the longer must begin with the shorter."""
    ordered = sorted(same, key=lambda account: len(account.leaves))
    for older, newer in pairwise(ordered):
        if root(newer.leaves[: len(older.leaves)]) != root(older.leaves):
            why = f"signed two logs: that of {len(older.leaves)} entries is no beginning of that of {len(newer.leaves)}"
            yield Disagreement(None, (older.institution,), why)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)[:16]
