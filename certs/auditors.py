"""Whether an auditor is one: a review's key and name against a certificate of the federation's CA."""

from datetime import datetime

from certs.names import Role
from certs.verify import check_identity_certificate
from privacy.errors import ProtocolError, VerificationError
from privacy.review import Review


def check_reviewer(review: Review, certificate: str, ca_pem: bytes, at: datetime) -> None:
    """The certificate is of this CA, valid at that time, an auditor's, and for the name and key that signed the review.

    Raises VerificationError. The signature itself is `Review.check`'s.
    """
    next_step = "The coordinator certifies auditors: `cloister certs issue auditor NAME`."
    try:
        party, public_key = check_identity_certificate(certificate.encode(), ca_pem, at)
    except ProtocolError as error:
        raise VerificationError(f"review by {review.party}", f"{error.what}: {error.why}", next_step) from error
    if party.role is not Role.AUDITOR:
        raise VerificationError(f"review by {review.party}", f"{party.uri} is no auditor", next_step)
    if (party.uri, public_key.hex()) != (review.party, review.public_key):
        why = f"the certificate is for {party.uri}, or for another key"
        raise VerificationError(f"review by {review.party}", why, next_step)
