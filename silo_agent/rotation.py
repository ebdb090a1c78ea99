"""A silo goes on under another identity key (runtime.key_change), certified for an invitation of its own name.

No job may be open: what was promised to its peers names the old key.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from certs.identity import Identity, fingerprint
from certs.invitation import Invitation
from certs.requests import IssuedCertificates
from certs.wallet import Wallet
from privacy.errors import ConfigError, Refused
from runtime.database import open_database
from runtime.files import StateLock
from runtime.key_change import Change, Rotated, abandon_change, change_key, check_vouches
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.enrol import ask, checked_aggregator, invitation_of
from silo_agent.entries import Author
from silo_agent.home import Home
from silo_agent.jobs import all_jobs
from silo_agent.peers import check_aggregator
from silo_agent.store import DATABASE, Store
from silo_agent.tables import LEDGER

_DOCS = "docs/how-to/rotate-certificates.md"


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
        return change_key(
            home.wallet,
            store.writing,
            Change(reason, by.fields(), by.now),
            check=lambda: _check_may_change(home, store, by),
            certify=lambda: _certified(home.wallet, store, invitation, by),
        )


def abandon(home: Home) -> None:
    """Forget a change that was begun: the present key stays.

    Raises ConfigError if the ledger has the new one, or none was begun.
    """
    with _alone(home) as store:
        _require_own_key(home.wallet.identity(), store)
        abandon_change(home.wallet, store.writing)


@contextmanager
def _alone(home: Home) -> Iterator[Store]:
    """The database, whosever key signs its ledger, while no agent runs."""
    with StateLock(home.folder):
        store = Store(open_database(home.folder / DATABASE, "silo_agent.migrations"), home.settings.ledger.committed)
        try:
            yield store
        finally:
            store.close()


def _certified(wallet: Wallet, store: Store, invitation: Invitation, by: Author) -> IssuedCertificates:
    fresh = not wallet.identity_changes
    Wallet.create(wallet.folder, invitation.ca_pem, invitation.party, new_identity=True)
    try:
        answer = ask(invitation, wallet.requests())
    except Refused:
        if fresh:
            wallet.abandon()  # it was refused, so that this key is of no use
        raise
    name, key = checked_aggregator(answer.aggregator_identity_pem, invitation, by.now)
    with store.reading() as connection:
        check_aggregator(connection, name, fingerprint(key), "runs `cloister silo rotate-key` with this token again")
    return IssuedCertificates(answer.tls_certificate_pem, answer.identity_certificate_pem)


def _check_may_change(home: Home, store: Store, by: Author) -> None:
    """The ledger is whole and this key's, whose certificate is valid now; nothing is promised under it to anybody."""
    _require_own_key(home.wallet.identity(), store)
    with store.reading() as connection:
        open_jobs = [record.name for record in all_jobs(connection) if not record.state.over]
    if open_jobs:
        why = f"open at this silo: {', '.join(open_jobs)}; what was said in a job is signed with the old key"
        raise Refused("change of key", why, "Wait for their end, or `cloister silo refuse JOB`; then run this again.")
    step = f"Enrol again, which renews the certificate on the old key (first `--abandon` a change begun): {_DOCS}."
    check_vouches(home.wallet, by.now, step)
    store.check()


def _require_own_key(own: Identity, store: Store) -> None:
    """The ledger is this key's; a renewed certificate takes the stored one's place. Raises ConfigError."""
    with store.writing() as tx:
        Ledger.begin(tx.connection, LEDGER, LogIdentity.of(own))
