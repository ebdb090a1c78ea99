"""What passes between witnesses: which sizes each has seen, and the proofs that logs' owners made from these."""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, delete, insert, select

from aggregator.tables import LOG_PROOFS, WANTED_SINCE, WITNESS_SIZES
from privacy.canonical import DIGEST_BYTES
from privacy.ledger.witness import Proof


class WitnessPost:
    """Within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def witness_saw(self, witness: str, sizes: Mapping[str, int]) -> None:
        """A witness says which sizes it has seen, of which logs; all that it said before is replaced."""
        self._db.execute(delete(WITNESS_SIZES).where(WITNESS_SIZES.c.witness == witness))
        for log, size in sizes.items():
            self._db.execute(insert(WITNESS_SIZES).values(witness=witness, log=log, size=size))

    def sizes_seen_by(self, witness: str) -> dict[str, int]:
        """By log."""
        rows = self._db.execute(select(WITNESS_SIZES).where(WITNESS_SIZES.c.witness == witness))
        return {row.log: row.size for row in rows}

    def sizes_of(self, log: str) -> dict[str, int]:
        """What each witness has seen of a log."""
        rows = self._db.execute(select(WITNESS_SIZES).where(WITNESS_SIZES.c.log == log))
        return {row.witness: row.size for row in rows}

    def keep_proofs(self, log: str, proofs: Iterable[Proof]) -> None:
        """Proofs of a log's newest checkpoint."""
        for proof in proofs:
            where = (LOG_PROOFS.c.log == log) & (LOG_PROOFS.c.old_size == proof.old_size)
            self._db.execute(delete(LOG_PROOFS).where(where))
            row = {"old_size": proof.old_size, "hashes": b"".join(proof.hashes)}
            self._db.execute(insert(LOG_PROOFS).values(log=log, **row))

    def drop_proofs(self, log: str) -> None:
        """There is a newer checkpoint."""
        self._db.execute(delete(LOG_PROOFS).where(LOG_PROOFS.c.log == log))

    def proofs(self, log: str) -> dict[int, tuple[bytes, ...]]:
        """Of a log's newest checkpoint, by the size that they start from."""
        rows = self._db.execute(select(LOG_PROOFS).where(LOG_PROOFS.c.log == log))
        return {row.old_size: _hashes(row.hashes) for row in rows}

    def want_since(self, log: str, since: int) -> None:
        """A log's owner wants cosignatures that are no older (seconds since 1970)."""
        self._db.execute(delete(WANTED_SINCE).where(WANTED_SINCE.c.log == log))
        self._db.execute(insert(WANTED_SINCE).values(log=log, since=since))

    def wanted_since(self) -> dict[str, int]:
        """What logs' owners asked for last, by log; of who asked for nothing there is none."""
        return {row.log: row.since for row in self._db.execute(select(WANTED_SINCE))}


def _hashes(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[start : start + DIGEST_BYTES] for start in range(0, len(joined), DIGEST_BYTES))
