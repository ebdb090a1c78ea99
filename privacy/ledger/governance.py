"""Who may change what an institution's budgets are, as its own log says: administrators, their signatures, reviews.

A book like RoundBook: it remembers what it needs of a log that is read once, in order.
"""

from collections.abc import Iterable, Mapping

from privacy.errors import Refused, VerificationError
from privacy.ledger.automatic import check_automatic
from privacy.ledger.entry import (
    AdminEntry,
    AnyEntry,
    AutoPolicyEntry,
    BudgetChangeEntry,
    JobApprovalEntry,
    PolicyEntry,
    ReviewEntry,
    SubCapEntry,
    statement_of,
)
from privacy.ledger.keys import KeyChain
from privacy.ledger.replay import Budgets, of_population
from privacy.review import Review, open_reviews
from privacy.two_person import Governance, Place, changed

GOVERNED = ("policy", "budget-change", "sub-cap", "admin")
"""The kinds of entry that `Governance.number` counts."""
_NEXT = "Compare the entries that changed this before."


def governance_of(entries: Iterable[AnyEntry], log: str, keys: KeyChain) -> Governance:
    """The governance after these entries of the log of this origin; kinds that are not GOVERNED may be left out.

    Raises Refused for a change without the signatures it takes.
    """
    found = Governance()
    for entry in entries:
        found = _after(found, entry, Place(log, keys.at(entry.sequence + 1).hex(), entry.utc))
    return found


def _after(before: Governance, entry: AnyEntry, place: Place) -> Governance:
    match entry:
        case PolicyEntry():
            return before.counted()
        case BudgetChangeEntry() | SubCapEntry() | AdminEntry():
            return changed(before, statement_of(entry, place.log), entry.approvals, place)
        case _:
            return before


class GovernanceBook:
    """Checks every change against those before it, and every review against the log that it says it examined."""

    def __init__(self, log: str, signed_roots: Mapping[int, bytes]) -> None:
        self.governance = Governance()
        self.reviews: dict[int, ReviewEntry] = {}
        self._auto: AutoPolicyEntry | None = None
        self.automatic_without_policy = 0  # approvals from before policies went on record
        self._log = log
        self._signed_roots = signed_roots  # by size

    def read(self, entry: AnyEntry, budgets: Budgets, key: str) -> None:
        """Check the entry; `budgets` are as before it, `key` (hex) signs the log at it. Raises VerificationError."""
        try:
            self.governance = _after(self.governance, entry, Place(self._log, key, entry.utc))
        except Refused as refusal:
            raise VerificationError(refusal.what, refusal.why, _NEXT) from refusal
        match entry:
            case BudgetChangeEntry(population=population, epsilon_before=before):
                _check_before(before, of_population(budgets, population).policy.epsilon)
            case SubCapEntry(population=population, purpose=purpose, epsilon_before=cap):
                _check_before(cap, of_population(budgets, population).sub_caps.of(purpose))
            case AutoPolicyEntry():
                self._auto = entry
            case JobApprovalEntry():
                self._check_automatic(entry)
            case ReviewEntry():
                self._check_review(entry)
                self.reviews[entry.sequence] = entry
            case _:
                pass

    def _check_automatic(self, entry: JobApprovalEntry) -> None:
        if entry.automatic != (entry.role == "agent"):
            why = f"{entry.role} {entry.actor} made an approval that is {'' if entry.automatic else 'not '}automatic"
            raise VerificationError("automatic", why, _NEXT)
        if not entry.automatic:
            return
        if self._auto is None:
            self.automatic_without_policy += 1
        else:
            check_automatic(entry, self._auto)

    def _check_review(self, entry: ReviewEntry) -> None:
        review = entry.review
        review.check(entry.signature)
        check_examined(review, self._log, self._signed_roots)
        if review.log_size > entry.sequence:
            raise VerificationError("review", f"it is of {review.log_size} entries, which there were not yet", _NEXT)
        if entry.role != "auditor" or entry.actor != review.party:
            raise VerificationError("review", f"{entry.actor} wrote it, and {review.party} signed it", _NEXT)
        if review.closes is not None and review.closes not in self._open():
            raise VerificationError("review", f"entry {review.closes} is no review with an open follow-up", _NEXT)

    def _open(self) -> set[int]:
        known = ((sequence, entry.review) for sequence, entry in self.reviews.items())
        return {each.sequence for each in open_reviews(known)}


def check_examined(review: Review, log: str, signed_roots: Mapping[int, bytes]) -> None:
    """A review is of this log, in a state that it signed a checkpoint of. Raises VerificationError."""
    if review.log != log:
        raise VerificationError("review", f"it is of {review.log}, not of {log}", _NEXT)
    root = signed_roots.get(review.log_size)
    if root is None or root.hex() != review.log_root:
        why = f"this log signed no checkpoint of {review.log_size} entries with the root that was examined"
        raise VerificationError("review", why, _NEXT)


def _check_before(stated: float | None, right: float | None) -> None:
    if stated != right:
        raise VerificationError("epsilon_before", f"{stated} is stated, {right} was so", _NEXT)
