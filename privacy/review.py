"""Reviews: an auditor examines part of a ledger and signs what was found (HIPAA 164.312(b): record *and examine*).

A review names the log and the state of it that was examined, by size and root, so that it can stand in no other log and
for no other state. A follow-up has a day by which it is due; a later review closes it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, ClassVar, Final, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, field_validator, model_validator

from privacy.canonical import canonical_json
from privacy.document import Document
from privacy.errors import VerificationError
from privacy.fields import Hex32, Hex64, Strict, Text

TYPE: Final = "cloister/v1/review"
Finding = Literal["in-order", "observation", "deficiency"]
_Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Review(Strict):
    """What an auditor says of the entries `first_sequence` to `last_sequence` of a log."""

    log: Text
    log_size: Annotated[int, Field(ge=1, le=2**53 - 1)]  # of the log that was examined
    log_root: Hex32
    party: Text  # the URI in the auditor's certificate
    public_key: Hex32  # raw Ed25519
    first_sequence: _Count
    last_sequence: _Count
    subject: Text
    finding: Finding
    remark: Text
    follow_up: Text | None
    due: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] | None
    closes: _Count | None  # the review whose follow-up is settled

    @field_validator("due")
    @classmethod
    def _a_day(cls, due: str | None) -> str | None:
        if due is not None:
            date.fromisoformat(due)
        return due

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.first_sequence <= self.last_sequence < self.log_size:
            raise ValueError("the entries examined are not all in the log that was examined")
        if (self.follow_up is None) != (self.due is None):
            raise ValueError("a follow-up has a day by which it is due, and nothing else has one")
        if self.finding == "deficiency" and self.follow_up is None:
            raise ValueError("a deficiency takes a follow-up")
        return self

    def message(self) -> bytes:
        """The bytes that are signed: `type NUL body`, as for every statement."""
        return TYPE.encode() + b"\x00" + canonical_json(self.model_dump(mode="json"))

    def check(self, signature: str) -> None:
        """The auditor's key signed this. Raises VerificationError; whose key it is, a certificate says."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(signature), self.message())
        except InvalidSignature as error:
            raise VerificationError(
                "review", f"{self.party} did not sign it", "Ask the auditor for it again."
            ) from error


class SignedReview(Document):
    """A review on its way to the institution, with the auditor's identity certificate."""

    what: ClassVar[str] = "review"
    next_step: ClassVar[str] = "Ask the auditor for it again."
    most_bytes: ClassVar[int] = 16 * 1024

    type: Literal["cloister/v1/review"] = TYPE
    review: Review
    signature: Hex64
    certificate: Annotated[str, Field(max_length=8192)]

    @classmethod
    def make(cls, review: Review, certificate: str, sign: Callable[[bytes], bytes]) -> Self:
        """Sign a review. `sign` is Ed25519 by the key it names."""
        made = cls(review=review, signature=sign(review.message()).hex(), certificate=certificate)
        review.check(made.signature)
        return made


@dataclass(frozen=True)
class OpenReview:
    """A follow-up that no later review has closed: of which entry, what, and until when."""

    sequence: int
    auditor: str
    follow_up: str
    due: date

    def overdue(self, today: date) -> bool:
        """Whether its day has passed."""
        return self.due < today


def open_reviews(reviews: Iterable[tuple[int, Review]]) -> tuple[OpenReview, ...]:
    """The follow-ups that are open, the one that is due first first; `reviews` have the sequences of their entries."""
    open_: dict[int, OpenReview] = {}
    for sequence, review in reviews:
        if review.closes is not None:
            open_.pop(review.closes, None)
        if review.follow_up is not None and review.due is not None:
            open_[sequence] = OpenReview(sequence, review.party, review.follow_up, date.fromisoformat(review.due))
    return tuple(sorted(open_.values(), key=lambda one: (one.due, one.sequence)))
