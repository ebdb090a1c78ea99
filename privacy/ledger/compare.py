"""Several institutions' logs side by side: what one says of a round and another denies, and logs that forked.

Each log was verified by itself before (privacy.ledger.verify). A log proves that its owner said something, and in which
order; here is what owners say of one another.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from privacy.budget import RoundKey
from privacy.ledger.account import Account
from privacy.ledger.merkle import root

COMPARED = ("members", "transcript_sha256", "sum_sha256", "adapter_before_sha256", "adapter_after_sha256")


@dataclass(frozen=True)
class Disagreement:
    """What two logs cannot both be right about, or one of them leaves out. `key`: the round, if it is about one."""

    key: RoundKey | None
    who: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Undetermined:
    """What others say of an institution whose own export, as far as that shows, was made before it.

    An export that was made and cosigned after `after_utc` would tell.
    """

    key: RoundKey | None
    who: str
    what: str
    after_utc: str


@dataclass(frozen=True)
class Comparison:
    """What came out. Logs agree if there is neither."""

    disagreements: tuple[Disagreement, ...]
    undetermined: tuple[Undetermined, ...]

    @property
    def agree(self) -> bool:
        """Nothing is denied, and nothing left open."""
        return not self.disagreements and not self.undetermined


def compare(accounts: Sequence[Account]) -> Comparison:
    """Everything that logs disagree about or leave open, rounds first, in the order of jobs and numbers.

    A round that a log has nothing of counts against an institution whose update the others say is in its sum, and the
    aggregator: as a disagreement if the log goes on after the round, and else as undetermined. Of several exports of
    one log the longest is its owner's word.
    """
    newest, forks = _newest(accounts)
    keys = {key for account in newest for key in account.rounds}
    found: list[Disagreement | Undetermined] = []
    for key in sorted(keys, key=lambda key: (key.job, key.round_number)):
        found += _round(key, newest)
        found += _other_updates(key, newest, accounts)
    found += _other_keys(accounts)
    return Comparison(
        (*(each for each in found if isinstance(each, Disagreement)), *forks),
        tuple(each for each in found if isinstance(each, Undetermined)),
    )


def _newest(accounts: Iterable[Account]) -> tuple[list[Account], list[Disagreement]]:
    """The exports that no longer one continues; of one institution's, the longer must begin with the shorter."""
    by_origin = defaultdict(list)
    for account in accounts:
        by_origin[account.origin].append(account)
    newest, forks = [], []
    for same in by_origin.values():
        ordered = sorted(same, key=lambda account: len(account.leaves))
        for older, newer in pairwise(ordered):
            if root(newer.leaves[: len(older.leaves)]) != root(older.leaves):
                lengths = f"that of {len(older.leaves)} entries is no beginning of that of {len(newer.leaves)}"
                forks.append(Disagreement(None, (older.institution,), f"signed two logs: {lengths}"))
                newest.append(older)
        newest.append(ordered[-1])
    return newest, forks


def _round(key: RoundKey, accounts: Sequence[Account]) -> Iterator[Disagreement | Undetermined]:
    said = [(account.institution, account.rounds[key]) for account in accounts if key in account.rounds]
    published = [(who, entry) for who, entry in said if entry.outcome == "published"]
    if not published:
        return
    names = tuple(who for who, _ in published)
    for name in COMPARED:
        values = defaultdict(list)
        for who, entry in published:
            values[getattr(entry, name)].append(who)
        if len(values) > 1:
            groups = "; ".join(f"{', '.join(who)}: {_short(value)}" for value, who in values.items())
            yield Disagreement(key, names, f"{name} differs ({groups})")
    members = {member for _, entry in published for member in entry.members}
    ended = min(entry.utc for _, entry in published)
    for account in accounts:
        if account.institution in members or not account.keeps_updates:
            yield from _owed(key, account, names, ended)


def _owed(
    key: RoundKey, account: Account, published: tuple[str, ...], ended_utc: str
) -> Iterator[Disagreement | Undetermined]:
    """What the log of an institution that had part in a published round must say of it."""
    who, said = account.institution, account.rounds.get(key)
    released = key in account.released or not account.keeps_updates
    if said is None and not account.goes_on_after(key, ended_utc):
        names = "does not say how it ended" if key in account.released else "names nothing of it"
        end = f"ends before it, at {account.until_utc}" if account.until_utc else "is empty"
        yield Undetermined(key, who, f"the log of {who} {names}; by its own account its export {end}", ended_utc)
        return
    if not released:
        yield Disagreement(key, (who, *published), f"an update of {who} is in the sum, and its log released none")
    if said is None or said.outcome != "published":
        outcome = "is not spoken of" if said is None else "ended aborted"
        yield Disagreement(key, (who, *published), f"{outcome} in the log of {who}, and published elsewhere")


def _other_updates(key: RoundKey, newest: Iterable[Account], accounts: Sequence[Account]) -> Iterator[Disagreement]:
    """The update that a log says it released is the one of which anybody has a transcript."""
    for account in newest:
        who, released = account.institution, account.released.get(key)
        if released is None:
            continue
        seen = [(each.institution, each.updates[key].get(who, released)) for each in accounts if key in each.updates]
        holders = sorted({holder for holder, digest in seen if digest != released})
        if holders:
            why = f"the update that {who} released is not the one in the sum, by the transcript of {', '.join(holders)}"
            yield Disagreement(key, (who, *holders), why)


def _other_keys(accounts: Sequence[Account]) -> Iterator[Disagreement | Undetermined]:
    """A plan names each institution by a key that its log has had."""
    had: defaultdict[str, set[str]] = defaultdict(set)
    until: defaultdict[str, str] = defaultdict(str)
    for account in accounts:
        had[account.institution].update(account.keys)
        until[account.institution] = max(until[account.institution], account.until_utc)
    strange: defaultdict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for account in accounts:
        for job, plan in account.plans.items():
            for who in plan.keys.keys() & had.keys():
                if plan.keys[who] not in had[who]:
                    strange[job, who, plan.keys[who]][account.institution] = plan.first_utc
    for (job, who, key), holders in sorted(strange.items()):
        first = min(holders.values())
        names = f"the plan of job {job[:12]} in the bundle of {', '.join(holders)} names {who} by the key {key[:16]}"
        if until[who] > first:
            yield Disagreement(None, (who, *holders), f"{names}, which the log of {who} never had")
        else:
            why = f"{names}, which the log of {who} has not; by its own account its export ends before that job"
            yield Undetermined(None, who, why, first)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)[:16]
