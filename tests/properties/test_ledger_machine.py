"""The ledger as a state machine: appends, checkpoints and transactions that fail, in any order."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import MetaData

from privacy.ledger.checkpoint import open_checkpoint
from privacy.ledger.codec import encode_entry
from privacy.ledger.entry import KeyEntry
from privacy.ledger.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from runtime.database import open_database, write
from runtime.ledger_store import Ledger, LogIdentity
from runtime.ledger_tables import ledger_tables
from tests.ledger_logs import by

METADATA = MetaData()
TABLES = ledger_tables(METADATA)
KEY = Ed25519PrivateKey.generate()
IDENTITY = LogIdentity("heart", "hospital-a", KEY.public_key().public_bytes_raw())


def pinned(reason: str) -> KeyEntry:
    return KeyEntry(**by(), action="pinned", party="cloister://heart/silo/b", fingerprint="0c" * 32, reason=reason)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = open_database(Path(self.folder.name) / "silo.db")
        METADATA.create_all(self.engine)
        self.model: list[bytes] = []
        self.signed: list[str] = []
        with write(self.engine) as connection:
            Ledger.begin(connection, TABLES, IDENTITY)

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(reasons=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4), together=st.booleans())
    def appending(self, reasons: list[str], *, together: bool) -> None:
        with write(self.engine) as connection:
            ledger = Ledger(connection, TABLES)
            size = len(self.model)
            for place, reason in enumerate(reasons, size):
                self.model.append(encode_entry(pinned(reason).model_copy(update={"sequence": place})))
            if together:
                assert ledger.append_all([pinned(reason) for reason in reasons]) == size
                return
            for place, reason in enumerate(reasons, size):
                assert ledger.append(pinned(reason)) == place

    @rule(reason=st.text("abc", min_size=1, max_size=3))
    def crashing(self, reason: str) -> None:
        connection = self.engine.connect()
        transaction = connection.begin()
        Ledger(connection, TABLES).append(pinned(reason))
        transaction.rollback()
        connection.close()

    @precondition(lambda self: self.model)
    @rule()
    def signing(self) -> None:
        with write(self.engine) as connection:
            note = Ledger(connection, TABLES).checkpoint(KEY.sign, datetime(2026, 3, 1, tzinfo=UTC))
        if note not in self.signed:
            self.signed.append(note)

    @invariant()
    def the_database_is_the_model(self) -> None:
        with write(self.engine) as connection:
            ledger = Ledger(connection, TABLES)
            ledger.check()
            assert list(ledger.entries()) == self.model
            assert list(ledger.notes()) == self.signed

    @invariant()
    def every_checkpoint_is_a_beginning_of_the_next(self) -> None:
        leaves = [leaf_hash(body) for body in self.model]
        opened = [open_checkpoint(note, IDENTITY.origin, IDENTITY.public_key) for note in self.signed]
        with write(self.engine) as connection:
            ledger = Ledger(connection, TABLES)
            for older, newer in pairwise(opened):
                proof = ledger.consistency_proof(older.size, newer.size)
                verify_consistency(older.size, older.root, newer.size, newer.root, proof)
            for signed in opened[-1:]:
                assert signed.root == root(leaves[: signed.size])
                for place in {0, signed.size // 2, signed.size - 1}:
                    proof = ledger.inclusion_proof(place, signed.size)
                    verify_inclusion(leaves[place], place, signed.size, proof, signed.root)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
