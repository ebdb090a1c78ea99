"""A program that appends to a ledger until it is killed; after each transaction it says how many are durable."""

import resource
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import ConfigError
from runtime.database import open_database, write
from runtime.ledger_store import Ledger, LogIdentity
from silo_agent.tables import LEDGER
from tests.ledger_logs import key_entry

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
IDENTITY = LogIdentity("heart", "hospital-a", KEY.public_key().public_bytes_raw())
BATCH = 3
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def main(folder: Path, most_bytes: int | None) -> None:
    engine = open_database(folder / "silo.db", "silo_agent.migrations")
    with write(engine) as connection:
        Ledger.begin(connection, LEDGER, IDENTITY)
    if most_bytes is not None:  # a file that may not grow stands for a disk that is full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    while True:
        try:
            with write(engine) as connection:
                ledger = Ledger(connection, LEDGER)
                ledger.append_all([key_entry()] * BATCH)
                ledger.checkpoint(KEY.sign, NOW)
                size = ledger.size
        except ConfigError as error:
            print(f"refused: {error}", flush=True)
            return
        print(size, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
