"""A bundle verified for whoever brings what they trust: a pinned key, or the federation's CA, which also vouches for
witnesses and auditors. Needs no network.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from certs.auditors import check_reviewer
from certs.names import PartyId, Role
from certs.times import parse_utc, utc_text
from certs.verify import CertificateFlaw, Kind, Leaf, load_ca, read_leaf
from federation.cards import CardBook, check_cards
from federation.unvouched import check_unvouched
from privacy.errors import VerificationError
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.codec import decode_entry
from privacy.ledger.cosignature import witness_name
from privacy.ledger.entry import KeyRotationEntry
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
    """Whose log it must be, the key that signs it now and those before, and the CA, if that is what was given.

    One of the keys is what somebody trusts: the pinned one, or by the CA the newest; the log leads from it to the
    others.
    """

    origin: str
    public_key: bytes
    earlier_keys: tuple[bytes, ...] = ()
    ca_pem: bytes | None = None
    party: PartyId | None = None
    valid_until: str | None = None
    valid_from: str | None = None


def trusted_by_key(bundle: Bundle, key: str) -> Trusted:
    """A pinned key, 64 hex digits: then the log says itself whose it is, and may have changed to another key since.

    Raises VerificationError.
    """
    notes = bundle.notes()
    if not notes:
        raise VerificationError("bundle", "it holds no signed checkpoint", _ASK)
    *earlier, newest = bundle.head.keys
    if key not in bundle.head.keys:
        raise VerificationError("bundle", f"it is of a log that never had the key {key[:16]}", _ASK)
    return Trusted(notes[0].split("\n", 1)[0], bytes.fromhex(newest), tuple(map(bytes.fromhex, earlier)))


def trusted_by_ca(bundle: Bundle, ca: Path) -> Trusted:
    """The identity certificate inside, as the federation's CA vouches for it. Raises ConfigError, VerificationError."""
    ca_pem = read_file(ca, "Name the federation's ca.pem.")
    leaf = _vouched(IDENTITY, bundle.certificate(), ca_pem)
    party = leaf.party
    if party.role not in _OWNERS:
        raise VerificationError(IDENTITY, f"is that of {party.uri}, which keeps no ledger", _ASK)
    origin = log_origin(party.federation, party.name)
    *earlier, newest = map(bytes.fromhex, bundle.head.keys)
    if newest != leaf.raw_key:
        raise VerificationError(IDENTITY, "is for another key than the bundle says that the log has now", _ASK)
    until, since = utc_text(leaf.not_after_utc), utc_text(load_ca(ca_pem).not_valid_before_utc)
    return Trusted(origin, newest, tuple(earlier), ca_pem, party, until, since)


def verified(bundle: Bundle, trusted: Trusted, entries: Iterator[bytes] | None = None) -> Report:
    """What the bundle adds up to; `entries` are its own, where somebody reads along.

    With a CA, witnesses and auditors are checked against it as well; without, certificates and cosignatures against
    each other. Raises VerificationError, a LedgerFault where it is about the log.
    """
    cards, evidence, notes = CardBook(), bundle.evidence(), bundle.notes()
    read = bundle.entries() if entries is None else entries
    if evidence.transcripts:
        read = _noted(read, cards)
    witnesses = _witness_keys(bundle, trusted)
    trust = Trust(witnesses, trusted.valid_until, trusted.valid_from)
    leaves, keys = bundle.leaves(), (trusted.public_key, trusted.earlier_keys)
    report = verify_log(read, notes, trusted.origin, keys[0], leaves, evidence, trust, keys[1])
    if (bundle.head.log, bundle.head.entries) != (trusted.origin, report.entries):
        stated = f"says that it holds {bundle.head.entries} entries of {bundle.head.log}"
        why = f"{stated}, and holds {report.entries} of {trusted.origin}"
        raise VerificationError("bundle.json", why, _ASK)
    check_cards(bundle.cards(), cards.cards(evidence, trusted.origin.rpartition("/")[2], notes[-1]))
    if trusted.ca_pem is not None and trusted.party is not None:
        _check_reviewers(report, trusted.ca_pem)
        _check_rotations(report, trusted.party, trusted.ca_pem)
        _check_pins(report, witnesses or {})
    else:
        check_unvouched(bundle, trusted.origin, trusted.public_key)
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
    keys, known = dict[str, bytes](), {trusted.public_key, *trusted.earlier_keys}
    for member, pem in bundle.witnesses().items():
        leaf = _vouched(member, pem, trusted.ca_pem)
        party = leaf.party
        if party.role not in _WITNESSES or member != f"witnesses/{party.role}-{party.name}.pem":
            raise VerificationError(member, f"is that of {party.uri}", _ASK)
        if party == trusted.party:  # nobody is a witness of their own log
            continue
        if leaf.raw_key in known:
            raise VerificationError(member, "is for a key of the log, or of another witness", _ASK)
        known.add(leaf.raw_key)
        keys[witness_name(party.federation, party.role, party.name)] = leaf.raw_key
    return keys


def _check_pins(report: Report, witnesses: Mapping[str, bytes]) -> None:
    """A silo or an aggregator among the witnesses has a key that the log pins for it, if any. Raises VerificationError.

    An auditor may have cosigned under a key from before the one that is pinned.
    """
    pins = {} if report.evidence is None else report.evidence.pins
    for witness, key in witnesses.items():
        party = f"cloister://{witness.removeprefix('cloister/')}"
        pinned, fingerprint = pins.get(party), hashlib.sha256(key).hexdigest()
        if pinned is not None and fingerprint not in pinned and witness.split("/")[2] in _OWNERS:
            why = f"the CA certified key {fingerprint[:16]} for it, and the log pins {pinned[-1][:16]} (SHA-256)"
            raise VerificationError(f"identity of {party}", why, "Ask that party for its fingerprint, by another way.")


def _check_reviewers(report: Report, ca_pem: bytes) -> None:
    """Each review was signed by an auditor of this federation, who was one then. Raises LedgerFault."""
    for entry in report.reviews:
        try:
            check_reviewer(entry.review, entry.certificate, ca_pem, parse_utc(entry.utc))
        except VerificationError as error:
            why = f"{error.what}: {error.why}"
            raise LedgerFault(entry.sequence, f"entry {entry.sequence}", why) from error


def _check_rotations(report: Report, party: PartyId, ca_pem: bytes) -> None:
    """The CA certified each key for this party, and each change of key was when both were good. Raises LedgerFault."""
    for entry in report.rotations:
        for which in ("old", "new"):
            try:
                _check_certified(entry, which, party, ca_pem)
            except VerificationError as error:
                why = f"{error.what}: {error.why}"
                raise LedgerFault(entry.sequence, f"entry {entry.sequence}", why) from error


def _check_certified(entry: KeyRotationEntry, which: Literal["old", "new"], party: PartyId, ca_pem: bytes) -> None:
    what, at = f"{which}_certificate", parse_utc(entry.utc)
    key, pem = (entry.old_key, entry.old_certificate) if which == "old" else (entry.new_key, entry.new_certificate)
    leaf = _vouched(what, (pem or "").encode(), ca_pem)
    if (leaf.party, leaf.raw_key.hex()) != (party, key):
        raise VerificationError(what, f"is not that of {party.uri} for this key", _ASK)
    if not leaf.not_before_utc <= at <= leaf.not_after_utc:
        why = f"is good from {utc_text(leaf.not_before_utc)} to {utc_text(leaf.not_after_utc)}, and not at {entry.utc}"
        raise VerificationError(what, why, _ASK)


def require_quorum(report: Report, quorum: int) -> None:
    """So many witnesses at least cosigned the newest checkpoint: every entry is one that they saw.

    Raises VerificationError; without a CA for any quorum, since nobody vouches for witnesses' keys then.
    """
    if quorum == 0:
        return
    covered = report.covered_by[quorum - 1] if len(report.covered_by) >= quorum else 0
    if covered < report.entries:
        why = f"of {report.entries} entries only {covered} are under a checkpoint that {quorum} cosigned"
        step = "Ask for an export from when others had seen the newest entries: `cloister silo witnesses list`."
        raise VerificationError("witnesses", why, step)


def _vouched(what: str, pem: bytes, ca_pem: bytes) -> Leaf:
    """The identity certificate. Whether it is still good does not matter: ledgers outlive certificates."""
    try:
        return read_leaf(pem, load_ca(ca_pem), Kind.IDENTITY)
    except CertificateFlaw as flaw:
        raise VerificationError(what, f"the certificate {flaw.why}", "See that --ca is this federation's.") from flaw
