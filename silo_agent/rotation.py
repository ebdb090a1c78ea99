"""A silo goes on under another identity key: the same ledger, which says so; the same name, budgets and pins.

The old key signs for all entries before, both keys sign the change, the new key signs for it and all that comes after.
The ledger is changed first, in one transaction, and the wallet after it; run again, an interrupted change goes on where
it was. Until the ledger has the new key, the change can be abandoned. No job may be open: what was promised to its
peers names the old key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from certs.identity import Identity, fingerprint
from certs.invitation import Invitation
from certs.requests import IssuedCertificates
from certs.verify import CertificateFlaw, Kind
from certs.wallet import Wallet
from privacy.errors import ConfigError, ProtocolError, Refused
from privacy.key_rotation import KeyRotation
from privacy.ledger.entry import KeyRotationEntry
from runtime.database import open_database
from runtime.files import StateLock
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.enrol import ask, checked_aggregator, invitation_of
from silo_agent.entries import Author
from silo_agent.home import Home
from silo_agent.jobs import all_jobs
from silo_agent.peers import check_aggregator
from silo_agent.store import DATABASE, Store, Transaction
from silo_agent.tables import LEDGER

_DOCS = "docs/how-to/rotate-certificates.md"


@dataclass(frozen=True)
class Rotated:
    """The entry that says so, and both keys' fingerprints as certs.identity words them.

    `before`: all but some clearing away was done before, and nothing was changed now.
    """

    entry: int
    old: str
    new: str
    before: bool = False


def rotate(home: Home, token: str, reason: str, by: Author) -> Rotated:
    """Put a fresh identity key, certified for this token, in the place of the present one.

    Raises ConfigError if the agent runs, for a token of another party or that is damaged or expired, and while the
    present certificate is not valid; Refused while a job is open, for a used token (then nothing is left of the change)
    or an aggregator that is not the pinned one; Unavailable while the aggregator is away.
    """
    invitation = invitation_of(token, by.now)
    if invitation.party != home.identity.party:
        why = f"invites {invitation.party.uri}, and this folder is of {home.identity.party.uri}"
        raise ConfigError("invitation token", why, f"Ask for a token for {home.name}.")
    with _alone(home) as store:
        return _rotate(home, store, invitation, reason, by)


def abandon(home: Home) -> None:
    """Forget a change that was begun: the present key stays. Raises ConfigError if the ledger has the new one."""
    with _alone(home) as store:
        _require_own_key(home.wallet.identity(), store)
        home.wallet.abandon()


@contextmanager
def _alone(home: Home) -> Iterator[Store]:
    """The database, whosever key signs its ledger, while no agent runs."""
    with StateLock(home.folder):
        store = Store(open_database(home.folder / DATABASE, "silo_agent.migrations"), home.settings.ledger.committed)
        try:
            yield store
        finally:
            store.close()


def _rotate(home: Home, store: Store, invitation: Invitation, reason: str, by: Author) -> Rotated:
    wallet, old = home.wallet, home.wallet.identity()
    with store.reading() as connection:
        done = next(reversed(Ledger(connection, LEDGER).rotations()), None)
    if wallet.settle() and done is not None and done.new_key == old.public_key.hex():
        return _rotated(done, before=True)
    if done is None or done.old_key != old.public_key.hex():  # else the ledger has the new key, and the wallet not yet
        _check_may_change(home, store, by)
    fresh = not wallet.identity_changes
    wallet = Wallet.create(wallet.folder, invitation.ca_pem, invitation.party, new_identity=True)
    try:
        answer = ask(invitation, wallet.requests())
    except Refused:
        if fresh:
            wallet.abandon()  # nobody has certified this key
        raise
    issued = IssuedCertificates(answer.tls_certificate_pem, answer.identity_certificate_pem)
    name, key = checked_aggregator(answer.aggregator_identity_pem, invitation, by.now)
    new = wallet.offered(issued, by.now)
    if new.party != invitation.party:
        raise ProtocolError("issued certificates", f"name {new.party.uri}", f"Ask the coordinator: {invitation.party}.")
    with store.writing() as tx:
        check_aggregator(tx.connection, name, fingerprint(key))
        if tx.ledger.identity.public_key != new.public_key:
            _record(tx, old, new, reason, by)
        (*_, newest) = tx.ledger.rotations()
    wallet.install(issued, by.now)
    return _rotated(newest)


def _check_may_change(home: Home, store: Store, by: Author) -> None:
    """The ledger is whole and this key's, whose certificate is valid now; nothing is promised under it to anybody."""
    _require_own_key(home.wallet.identity(), store)
    with store.reading() as connection:
        open_jobs = [record.name for record in all_jobs(connection) if not record.state.over]
    if open_jobs:
        why = f"open at this silo: {', '.join(open_jobs)}; what was said in a job is signed with the old key"
        raise Refused("change of key", why, "Wait for their end, or `cloister silo refuse JOB`; then run this again.")
    try:
        home.wallet.leaf(Kind.IDENTITY).check_time(by.now)
    except CertificateFlaw as error:
        step = f"Enrol again, which renews the certificate on the old key (first `--abandon` a change begun): {_DOCS}."
        raise ConfigError("identity certificate", error.why, step) from error
    store.check()


def _require_own_key(own: Identity, store: Store) -> None:
    """The ledger is this key's; a renewed certificate takes the stored one's place. Raises ConfigError."""
    with store.writing() as tx:
        Ledger.begin(tx.connection, LEDGER, LogIdentity.of(own))


def _record(tx: Transaction, old: Identity, new: Identity, reason: str, by: Author) -> None:
    said = KeyRotation(
        log=tx.ledger.identity.origin,
        size=tx.ledger.size,
        old_key=old.public_key.hex(),
        new_key=new.public_key.hex(),
        reason=reason,
    )
    entry = KeyRotationEntry(
        **by.fields(),
        old_key=said.old_key,
        new_key=said.new_key,
        old_certificate=old.certificate_pem.decode(),
        new_certificate=new.certificate_pem.decode(),
        old_signature=old.sign(said.message()).hex(),
        new_signature=new.sign(said.message()).hex(),
        reason=reason,
    )
    tx.ledger.checkpoint(old.sign, by.now)
    tx.ledger.rotate(tx.with_commitments(entry), LogIdentity.of(new), new.sign, by.now)


def _rotated(entry: KeyRotationEntry, *, before: bool = False) -> Rotated:
    old, new = (fingerprint(bytes.fromhex(key)) for key in (entry.old_key, entry.new_key))
    return Rotated(entry.sequence, old, new, before)
