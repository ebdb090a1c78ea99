"""Auditors' reviews in the aggregator's ledger, also while it runs: each is one transaction, as each of its own steps.

A running aggregator keeps nothing of its ledger in memory; silos are shown the new checkpoint when they next ask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

from aggregator.config import StateFolder
from aggregator.server import open_store
from aggregator.store import Store
from aggregator.tables import LEDGER
from certs.wallet import Wallet
from privacy.errors import ConfigError
from privacy.review import SignedReview
from runtime.ledger_store import Ledger, LogIdentity
from runtime.reviews import record_review
from runtime.reviews_shown import review_facts


def add_review(state: StateFolder, signed: SignedReview, now: datetime) -> None:
    """Put an auditor's review on record.

    Raises as runtime.reviews.record_review; ConfigError for a folder without the ledger, or with another one's key.
    """
    wallet = Wallet(state.wallet)
    with _opened(state) as store:
        identity = wallet.identity()
        with store.transaction() as tx:
            ledger = Ledger.begin(tx.connection, LEDGER, LogIdentity.of(identity))
            record_review(ledger, signed, wallet.ca_pem, identity.sign, now)


def listed_reviews(state: StateFolder, today: date) -> list[dict[str, Any]]:
    """The facts of all reviews on record. Raises ConfigError for a folder without the ledger."""
    with _opened(state) as store, store.reading() as tx:
        return review_facts(Ledger(tx.connection, LEDGER), today)


@contextmanager
def _opened(state: StateFolder) -> Iterator[Store]:
    """The aggregator's database, which has to be there: a coordinator's own folder has none, and gets none."""
    config = state.load()
    if config.database is None and not state.database.exists():
        why = f"has no {state.database.name}, where the ledger is"
        step = "Name the aggregator's own folder, on its machine; from elsewhere, `cloister aggregator status` shows"
        raise ConfigError(f"state folder {state.root}", why, f"{step} what is due.")
    store = open_store(state, config)
    try:
        yield store
    finally:
        store.close()
