"""A long ledger: appended, proved, checked, verified, and an entry deep inside that was altered is named."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.made_ledger import INSTITUTION, POPULATIONS, made_entries
from privacy.ledger.checkpoint import open_checkpoint
from privacy.ledger.merkle import verify_consistency, verify_inclusion
from privacy.ledger.verify import LedgerFault, verify_log
from runtime.database import open_database, read, write
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.tables import LEDGER

KEY = Ed25519PrivateKey.generate()
IDENTITY = LogIdentity("heart", INSTITUTION, KEY.public_key().public_bytes_raw())
NOW = datetime(2026, 3, 1, tzinfo=UTC)
CHECKPOINTS = 20
LONG = pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])


@pytest.mark.parametrize("size", [4_000, LONG])
def test_a_long_ledger(size: int, tmp_path: Path) -> None:
    engine, made = open_database(tmp_path / "silo.db", "silo_agent.migrations"), made_entries()
    with write(engine) as connection:
        Ledger.begin(connection, LEDGER, IDENTITY)
    batch = min(5_000, size // CHECKPOINTS)
    for start in range(0, size, batch):
        with write(engine) as connection:
            ledger = Ledger(connection, LEDGER)
            assert ledger.append_all(list(islice(made, batch))) == start
            if (start + batch) % (size // CHECKPOINTS) == 0:
                ledger.checkpoint(KEY.sign, NOW)
    with read(engine) as connection:
        ledger = Ledger(connection, LEDGER)
        assert ledger.size == size
        ledger.check()
        every_proof_holds(ledger)
        it_verifies(ledger)
        what_was_altered_is_named(ledger, size - size // 8 - 1)
    engine.dispose()


def every_proof_holds(ledger: Ledger) -> None:
    leaves = ledger.leaf_hashes(ledger.size)
    signed = [open_checkpoint(note, IDENTITY.origin, IDENTITY.public_key) for note in ledger.notes()]
    assert len(signed) == CHECKPOINTS
    last = signed[-1]
    places = {0, 1, last.size // 3, last.size // 2 - 1, last.size // 2, last.size - 2, last.size - 1}
    for place in places | {1 << power for power in range(last.size.bit_length() - 1)}:
        verify_inclusion(leaves[place], place, last.size, ledger.inclusion_proof(place, last.size), last.root)
    for older in signed:
        proof = ledger.consistency_proof(older.size, last.size)
        verify_consistency(older.size, older.root, last.size, last.root, proof)


def it_verifies(ledger: Ledger) -> None:
    leaves, notes = ledger.leaf_hashes(ledger.size), ledger.notes()
    report = verify_log(ledger.entries(), notes, IDENTITY.origin, IDENTITY.public_key, leaves)
    assert (report.entries, report.checkpoints) == (ledger.size, CHECKPOINTS)
    assert tuple(each.population for each in report.populations) == POPULATIONS
    assert sum(each.rounds_committed for each in report.populations) == report.kinds["commit"]
    assert report.kinds["policy"] == len(POPULATIONS)


def what_was_altered_is_named(ledger: Ledger, place: int) -> None:
    def altered() -> Iterator[bytes]:
        for sequence, body in enumerate(ledger.entries()):
            yield body.replace(b'"role":"agent"', b'"role":"steward"') if sequence == place else body

    with pytest.raises(LedgerFault, match="it is not the entry that was signed for") as found:
        verify_log(altered(), ledger.notes(), IDENTITY.origin, IDENTITY.public_key, ledger.leaf_hashes(ledger.size))
    assert found.value.sequence == place
