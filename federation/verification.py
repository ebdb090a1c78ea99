"""A bundle verified for whoever brings what they trust: a pinned key, or the federation's CA, which also vouches for
witnesses and auditors. Needs no network.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.auditors import check_reviewer
from certs.names import PartyId, Role
from certs.times import parse_utc, utc_text
from certs.verify import CertificateFlaw, Kind, Leaf, load_ca, read_leaf
from federation.cards import CardBook, check_cards
from privacy.errors import ConfigError, VerificationError
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.codec import decode_entry
from privacy.ledger.cosignature import witness_name
from privacy.ledger.openings import readable
from privacy.ledger.verify import LedgerFault, Report, Trust, verify_log
from privacy.plan import JobPlan
from runtime.bundle import Bundle, opened_bundle
from runtime.bundle_form import IDENTITY
from runtime.files import read_file

if TYPE_CHECKING:
    from federation.ledger_report.page import VerifiedBundle
    from privacy.ledger.entry import AnyEntry

_ASK = "Ask the institution for a fresh export."
_OWNERS = (Role.SILO, Role.AGGREGATOR)
_WITNESSES = (*_OWNERS, Role.AUDITOR)


@dataclass(frozen=True)
class Trusted:
    """Whose log it must be, the key that must have signed it, and the CA behind both, if that is what was given."""

    origin: str
    public_key: bytes
    ca_pem: bytes | None = None
    party: PartyId | None = None
    valid_until: str | None = None


def trusted_by_key(bundle: Bundle, key: str) -> Trusted:
    """A pinned key, 64 hex digits: then the log says itself whose it is. Raises ConfigError, VerificationError."""
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ConfigError("--key", "is not 64 hex digits", "`cloister certs show --json` prints it: identity_key.")
    notes = bundle.notes()
    if not notes:
        raise VerificationError("bundle", "it holds no signed checkpoint", _ASK)
    return Trusted(notes[0].split("\n", 1)[0], bytes.fromhex(key))


def trusted_by_ca(bundle: Bundle, ca: Path) -> Trusted:
    """The identity certificate inside, as the federation's CA vouches for it. Raises ConfigError, VerificationError."""
    ca_pem = read_file(ca, "Name the federation's ca.pem.")
    leaf = _vouched(IDENTITY, bundle.certificate(), ca_pem)
    party = leaf.party
    if party.role not in _OWNERS:
        raise VerificationError(IDENTITY, f"is that of {party.uri}, which keeps no ledger", _ASK)
    origin = log_origin(party.federation, party.name)
    return Trusted(origin, _key(leaf), ca_pem, party, utc_text(leaf.not_after_utc))


def verified(bundle: Bundle, trusted: Trusted, entries: Iterator[bytes] | None = None) -> Report:
    """What the bundle adds up to; `entries` are its own, where somebody reads along.

    With a CA, witnesses and auditors are checked against it as well. Raises VerificationError, a LedgerFault where it
    is about the log.
    """
    cards, evidence, notes = CardBook(), bundle.evidence(), bundle.notes()
    read = bundle.entries() if entries is None else entries
    if evidence.transcripts:
        read = _noted(read, cards)
    trust = Trust(_witness_keys(bundle, trusted), trusted.valid_until)
    report = verify_log(read, notes, trusted.origin, trusted.public_key, bundle.leaves(), evidence, trust)
    if (bundle.head.log, bundle.head.entries) != (trusted.origin, report.entries):
        stated = f"says that it holds {bundle.head.entries} entries of {bundle.head.log}"
        why = f"{stated}, and holds {report.entries} of {trusted.origin}"
        raise VerificationError("bundle.json", why, _ASK)
    check_cards(bundle.cards(), cards.cards(evidence, trusted.origin.rpartition("/")[2], notes[-1]))
    if trusted.ca_pem is not None:
        _check_reviewers(report, trusted.ca_pem)
    return report


def verified_file(path: Path, ca: Path) -> Report:
    """A bundle's file, whose log it is vouched for by the federation's CA. Raises VerificationError."""
    with opened_bundle(path) as opened:
        return verified(opened, trusted_by_ca(opened, ca))


def read_through(bundle: Bundle, trusted: Trusted) -> "VerifiedBundle":
    """The bundle verified, with the very entries that the verifier read. Raises VerificationError."""
    from federation.ledger_report.page import VerifiedBundle

    read: list[AnyEntry] = []
    openings = {opening.sha256: opening for opening in bundle.openings()}

    def entries() -> Iterator[bytes]:
        for body in bundle.entries():
            yield body
            read.append(readable(decode_entry(body), openings))  # asked for the next: the verifier let it pass

    found = verified(bundle, trusted, entries())
    evidence = bundle.evidence()
    plans = {job: JobPlan.decode(plan) for job, plan in evidence.plans.items()}
    by: Literal["key", "ca"] = "key" if trusted.ca_pem is None else "ca"
    return VerifiedBundle(found, trusted.public_key, by, evidence.scope, tuple(read), plans)


def _noted(entries: Iterator[bytes], cards: CardBook) -> Iterator[bytes]:
    """The entries, and what the model cards say of them."""
    for body in entries:
        yield body
        if b'"kind":"commit"' in body or b'"kind":"round"' in body:
            cards.read(decode_entry(body))  # asked for the next: the verifier let it pass


def _witness_keys(bundle: Bundle, trusted: Trusted) -> dict[str, bytes] | None:
    """The keys of the witnesses whose certificates are inside, by name; None without a CA: nobody vouches for them."""
    if trusted.ca_pem is None or trusted.party is None:
        return None
    keys = {}
    for member, pem in bundle.witnesses().items():
        leaf = _vouched(member, pem, trusted.ca_pem)
        party = leaf.party
        if party.role not in _WITNESSES or member != f"witnesses/{party.role}-{party.name}.pem":
            raise VerificationError(member, f"is that of {party.uri}", _ASK)
        if party != trusted.party:  # nobody is a witness of their own log
            keys[witness_name(party.federation, party.role, party.name)] = _key(leaf)
    return keys


def _check_reviewers(report: Report, ca_pem: bytes) -> None:
    """Each review was signed by an auditor of this federation, who was one then. Raises LedgerFault."""
    for entry in report.reviews:
        try:
            check_reviewer(entry.review, entry.certificate, ca_pem, parse_utc(entry.utc))
        except VerificationError as error:
            why = f"{error.what}: {error.why}"
            raise LedgerFault(entry.sequence, f"entry {entry.sequence}", why) from error


def require_quorum(report: Report, quorum: int) -> None:
    """So many witnesses cosigned one checkpoint at least. Raises VerificationError, ConfigError without a CA."""
    if quorum == 0:
        return
    if report.witnesses is None:
        raise ConfigError("--quorum", "needs --ca: nobody vouches for witnesses' keys", "Give the federation's ca.pem.")
    if report.best_witnessed < quorum:
        why = f"no checkpoint has more than {report.best_witnessed} cosignatures, and {quorum} are asked for"
        raise VerificationError("witnesses", why, _ASK)


def _key(leaf: Leaf) -> bytes:
    return leaf.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _vouched(what: str, pem: bytes, ca_pem: bytes) -> Leaf:
    """The identity certificate. Whether it is still good does not matter: ledgers outlive certificates."""
    try:
        return read_leaf(pem, load_ca(ca_pem), Kind.IDENTITY)
    except CertificateFlaw as flaw:
        raise VerificationError(what, f"the certificate {flaw.why}", "See that --ca is this federation's.") from flaw
