"""Auditors' reviews in a program's own ledger: what one has to prove to go on record, and what is due."""

from collections.abc import Callable, Iterable
from datetime import datetime

from certs.auditors import check_reviewer
from certs.times import utc_text
from privacy.errors import Refused
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import ReviewEntry
from privacy.ledger.governance import check_examined
from privacy.review import OpenReview, SignedReview, open_reviews
from runtime.ledger_store import Ledger


def record_review(
    ledger: Ledger, signed: SignedReview, ca_pem: bytes, sign: Callable[[bytes], bytes], now: datetime
) -> None:
    """Put an auditor's review on record, in the caller's transaction. `sign` is Ed25519 by the log's key.

    Raises VerificationError unless an auditor of this CA's federation signed it, about a state of this log that it
    signed a checkpoint of; Refused if it is on record, or closes what is not open.
    """
    review = signed.review
    review.check(signed.signature)
    check_reviewer(review, signed.certificate, ca_pem, now)
    log, roots = ledger.identity, {size: checkpoint.root for size, checkpoint in ledger.checkpoints().items()}
    check_examined(review, log.origin, roots)
    known = reviews(ledger)
    if any(entry.review == review for entry in known):
        raise Refused("review", "is on record already", "Nothing needs to be done.")
    if review.closes is not None and review.closes not in {one.sequence for one in _open(known)}:
        raise Refused("review", f"entry {review.closes} is no review with an open follow-up", "Ask the auditor.")
    entry = ReviewEntry(
        institution=log.institution,
        actor=review.party,
        role="auditor",
        utc=utc_text(now),
        review=review,
        signature=signed.signature,
        certificate=signed.certificate,
    )
    ledger.append(entry)
    ledger.checkpoint(sign, now)


def reviews(ledger: Ledger) -> list[ReviewEntry]:
    """All reviews on record, oldest first."""
    found = map(decode_entry, ledger.entries_of(("review",)))
    return [entry for entry in found if isinstance(entry, ReviewEntry)]


def follow_ups(ledger: Ledger) -> tuple[OpenReview, ...]:
    """What auditors asked for and no later review has closed, the one that is due first first."""
    return _open(reviews(ledger))


def _open(entries: Iterable[ReviewEntry]) -> tuple[OpenReview, ...]:
    return open_reviews((entry.sequence, entry.review) for entry in entries)
