"""`cloister bench ledger`: what the ledger costs when it is long, in a real database on this machine's disk.

The entries are made up (federation.made_ledger) and stand in a silo's database as the agent would have put them there:
SQLite, WAL, synchronous=FULL, so that a transaction is on the disk when it ends. A batch is the entries of one
transaction; making them up is not counted. Verification is `verify_log` over an exported bundle in a process of its
own, as an auditor's is: processor time, in which the accountants are imported and every price is computed. Nothing of
the rounds stands behind these entries, so plans and transcripts are not compared.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from federation.made_ledger import INSTITUTION, made_entries
from privacy.ledger.checkpoint import Checkpoint, open_checkpoint
from privacy.ledger.entry import Entry
from privacy.ledger.evidence import Evidence
from privacy.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from privacy.ledger.verify import verify_log
from runtime.bundle import opened_bundle
from runtime.bundle_export import export_bundle
from runtime.database import open_database, read, write
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.tables import LEDGER

ALONE = 500  # entries that are appended in a transaction each
PROOFS = 200
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def bench_ledger(entries: int, batch: int, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Append so many entries, a checkpoint with each batch; prove some, check all, export and verify all."""
    key = Ed25519PrivateKey.generate()
    identity = LogIdentity("bench", INSTITUTION, key.public_key().public_bytes_raw())
    engine = open_database(folder / "silo.db", "silo_agent.migrations")
    try:
        with write(engine) as connection:
            Ledger.begin(connection, LEDGER, identity)
        made = made_entries()
        alone = min(ALONE, entries // 2)
        seconds_alone = _append(engine, made, alone, 1, key, note)
        seconds = _append(engine, made, entries - alone, batch, key, note)
        note("proving")
        found = {"append_per_second": (entries - alone) / seconds, "append_alone_per_second": alone / seconds_alone}
        found |= _prove(engine, identity, entries)
        note("checking, as at every start")
        with _timed() as check, read(engine) as connection:
            Ledger(connection, LEDGER).check()
        with read(engine) as connection:
            export_bundle(Ledger(connection, LEDGER), folder / "bundle.zip", Evidence())
    finally:
        engine.dispose()
    note("verifying")
    size = (folder / "bundle.zip").stat().st_size
    shape = {"entries": entries, "batch": batch, "bundle_bytes_per_entry": size / entries}
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one core: its other threads would wait busily, which counts
    with ProcessPoolExecutor(1, get_context("spawn")) as auditor:
        verified = auditor.submit(_verify, folder / "bundle.zip", identity).result()
    return shape | found | {"check_seconds": check[0]} | verified


def _append(
    engine: Engine, made: Iterator[Entry], count: int, batch: int, key: Ed25519PrivateKey, note: Callable[[str], None]
) -> float:
    """Seconds that it took to append so many entries, the transaction with each batch among them."""
    taken, done = 0.0, 0
    while done < count:
        entries = list(islice(made, min(batch, count - done)))
        with _timed() as seconds, write(engine) as connection:
            ledger = Ledger(connection, LEDGER)
            ledger.append_all(entries)
            if batch > 1 or done + 1 == count:
                ledger.checkpoint(key.sign, NOW)
        taken += seconds[0]
        if done // 100_000 != (done + len(entries)) // 100_000:
            note(f"{done + len(entries)} entries appended")
        done += len(entries)
    return taken


def _prove(engine: Engine, identity: LogIdentity, size: int) -> dict[str, float]:
    """Milliseconds of a proof, read from the database; every one of them holds."""
    chance = random.Random(size)  # noqa: S311 - which entries are tried
    inclusion, consistency = [], []
    with read(engine) as connection:
        ledger = Ledger(connection, LEDGER)
        signed = [open_checkpoint(note, identity.origin, identity.public_key) for note in ledger.notes()]
        newest = signed[-1]
        for place in (chance.randrange(size) for _ in range(PROOFS)):
            with _timed() as seconds:
                proof = ledger.inclusion_proof(place, size)
            inclusion.append(seconds[0])
            (entry,) = ledger.entries(place, place + 1)
            verify_inclusion(leaf_hash(entry), place, size, proof, newest.root)
        for older in chance.choices(signed, k=PROOFS):
            with _timed() as seconds:
                proof = ledger.consistency_proof(older.size, size)
            consistency.append(seconds[0])
            verify_consistency(older.size, older.root, size, newest.root, proof)
    return _milliseconds("inclusion_proof", inclusion) | _milliseconds("consistency_proof", consistency)


def _milliseconds(name: str, seconds: list[float]) -> dict[str, float]:
    hundredths = statistics.quantiles(seconds, n=100)
    return {f"{name}_ms": hundredths[49] * 1e3, f"{name}_99_of_100_ms": hundredths[98] * 1e3}


def _verify(bundle: Path, identity: LogIdentity) -> dict[str, float]:
    with ExitStack() as stack:
        with _timed() as opening:
            opened = stack.enter_context(opened_bundle(bundle))
        began = time.process_time()
        report = verify_log(opened.entries(), opened.notes(), identity.origin, identity.public_key, opened.leaves())
        taken = time.process_time() - began
        notes = opened.notes()
    with _timed() as signatures:
        for note in notes:
            _open(note, identity)
    return {
        "checkpoints": report.checkpoints,
        "verify_seconds": taken,
        "verify_per_second": report.entries / taken,
        "of_that_signatures_seconds": signatures[0],
        "open_bundle_seconds": opening[0],
    }


def _open(note: str, identity: LogIdentity) -> Checkpoint:
    return open_checkpoint(note, identity.origin, identity.public_key)


@contextmanager
def _timed() -> Iterator[list[float]]:
    """A list in which the seconds of the block stand once it has ended."""
    found: list[float] = []
    began = time.perf_counter()
    yield found
    found.append(time.perf_counter() - began)
