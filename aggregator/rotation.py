"""The aggregator goes on under another identity key (runtime.key_change), certified by the federation's CA.

No job may be open: plans name the key that signs its commits. Silos hold to the old key until a steward of theirs pins
the new one; the coordinator reads its fingerprint to them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from aggregator.config import StateFolder
from aggregator.server import issuing_of, open_store
from aggregator.store import Store, Transaction
from aggregator.tables import LEDGER
from certs.requests import IssuedCertificates
from certs.times import utc_text
from certs.wallet import Wallet
from privacy.errors import Refused
from privacy.ledger.entry import KeyRotationEntry
from runtime.account import account
from runtime.files import StateLock
from runtime.key_change import Change, Rotated, abandon_change, change_key, check_vouches
from runtime.ledger_store import Ledger, LogIdentity

_DOCS = "docs/how-to/rotate-certificates.md"


@dataclass(frozen=True)
class _Step:
    """A transaction of the aggregator's, which has no texts to keep back."""

    ledger: Ledger

    def with_commitments(self, entry: KeyRotationEntry, /) -> KeyRotationEntry:
        """The entry as it is."""
        return entry


def rotate(state: StateFolder, reason: str, now: datetime) -> Rotated:
    """Put a fresh identity key, certified by the CA, in the place of the present one.

    Raises ConfigError while the aggregator runs or its present certificate is not valid, Refused while a job is open,
    Unavailable until an offline CA has answered.
    """
    party = Wallet(state.wallet).party
    said = {"institution": party.name, "actor": account(), "role": "coordinator", "utc": utc_text(now)}
    with _alone(state) as store:
        return change_key(
            Wallet(state.wallet),
            partial(_step, store),
            Change(reason, said, now),
            check=lambda: _check_may_change(state, store, now),
            certify=lambda: _certified(state, now),
        )


def abandon(state: StateFolder) -> None:
    """Forget a change that was begun: the present key stays.

    Raises ConfigError if the ledger has the new one, or none was begun.
    """
    with _alone(state) as store:
        with store.transaction() as tx:
            _own_ledger(state, tx)
        abandon_change(Wallet(state.wallet), partial(_step, store))


@contextmanager
def _step(store: Store) -> Iterator[_Step]:
    with store.transaction() as tx:
        yield _Step(Ledger(tx.connection, LEDGER))


@contextmanager
def _alone(state: StateFolder) -> Iterator[Store]:
    """The database, whosever key signs its ledger, while the aggregator does not run."""
    config = state.load()
    with StateLock(state.root):
        store = open_store(state, config)
        try:
            yield store
        finally:
            store.close()


def _certified(state: StateFolder, now: datetime) -> IssuedCertificates:
    wallet, issuing = Wallet(state.wallet), issuing_of(state)
    Wallet.create(wallet.folder, wallet.ca_pem, wallet.party, new_identity=True)
    requests = wallet.requests()
    return issuing.issue(wallet.party, requests.tls, requests.identity, now)


def _check_may_change(state: StateFolder, store: Store, now: datetime) -> None:
    """The ledger is whole and this key's, whose certificate is valid now; no plan that names it is being worked on."""
    with store.transaction() as tx:
        ledger = _own_ledger(state, tx)
        open_jobs = [row.name for row in tx.jobs() if not row.phase.closed]
        ledger.check()
    if open_jobs:
        why = f"open here: {', '.join(open_jobs)}; their plans name the old key"
        step = (
            "Run the aggregator until they end, or `cloister aggregator cancel JOB`; then stop it and run this again."
        )
        raise Refused("change of key", why, step)
    renew = f"`cloister certs issue aggregator {Wallet(state.wallet).party.name} --out {state.wallet} --ca CA`"
    step = f"Renew it on the old key with {renew} (first `--abandon` a change begun): {_DOCS}."
    check_vouches(Wallet(state.wallet), now, step)


def _own_ledger(state: StateFolder, tx: Transaction) -> Ledger:
    """The ledger is this key's; a renewed certificate takes the stored one's place. Raises ConfigError."""
    return Ledger.begin(tx.connection, LEDGER, LogIdentity.of(Wallet(state.wallet).identity()))
