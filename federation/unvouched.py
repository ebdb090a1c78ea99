"""The certificates and cosignatures of a bundle for whoever pins a key and has no CA: nobody vouches for any of them.

They prove nothing then, and the report says nothing of them. But a bundle is not let pass with some that are broken,
for others to find later: each certificate is read, and each cosignature is held against the key in its witness' own.
"""

from collections.abc import Mapping

from certs.names import Role
from certs.verify import CertificateFlaw, Kind, Leaf, read_unvouched
from privacy.errors import VerificationError
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.cosignature import witness_name
from privacy.ledger.witnessed import WitnessedBook
from runtime.bundle import Bundle
from runtime.bundle_form import IDENTITY

_ASK = "Ask the institution for a fresh export."


def check_unvouched(bundle: Bundle, origin: str, public_key: bytes) -> None:
    """`origin` is the log's name, `public_key` the newest that it has.

    Raises VerificationError unless the identity certificate names this log's owner and key, each witness' certificate
    whom its member does, and each further signature under a checkpoint is by one of those.
    """
    if bundle.has_certificate:
        leaf = _read(IDENTITY, bundle.certificate())
        if _log(leaf) != origin or leaf.raw_key != public_key:
            raise VerificationError(IDENTITY, f"is that of {leaf.party.uri}, for another key or log", _ASK)
    book = WitnessedBook(_keys(bundle.witnesses(), origin))
    for note in bundle.notes():
        book.read(note)


def _keys(certificates: Mapping[str, bytes], origin: str) -> dict[str, bytes]:
    keys = {}
    for member, pem in certificates.items():
        leaf = _read(member, pem)
        party = leaf.party
        if member != f"witnesses/{party.role}-{party.name}.pem":
            raise VerificationError(member, f"is that of {party.uri}", _ASK)
        if _log(leaf) != origin:  # nobody is a witness of their own log
            keys[witness_name(party.federation, party.role, party.name)] = leaf.raw_key
    return keys


def _log(leaf: Leaf) -> str | None:
    owner = leaf.party.role in (Role.SILO, Role.AGGREGATOR)
    return log_origin(leaf.party.federation, leaf.party.name) if owner else None


def _read(what: str, pem: bytes) -> Leaf:
    try:
        return read_unvouched(pem, Kind.IDENTITY)
    except CertificateFlaw as flaw:
        raise VerificationError(what, f"the certificate {flaw.why}", _ASK) from flaw
