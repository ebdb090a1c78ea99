"""What the aggregator keeps that stands behind its ledger's entries."""

from sqlalchemy import Connection

from aggregator.record import round_record
from aggregator.store import Transaction
from privacy.budget import RoundKey
from privacy.ledger.openings import Opening
from privacy.plan import JobPlan


class Archive:
    """Of one database, for as long as one transaction lasts; reads only."""

    def __init__(self, connection: Connection) -> None:
        self._tx = Transaction(connection)

    def plans(self) -> dict[str, bytes]:
        """Every job's plan, by its digest in hex."""
        return {row.job.hex(): row.plan for row in self._tx.jobs()}

    def openings(self) -> dict[str, Opening]:
        """None: nobody at an aggregator writes entries by hand."""
        return {}

    def transcript(self, key: RoundKey) -> bytes | None:
        """The round's record, put together from its statements; None of a job that is not here.

        Raises ProtocolError if the round was never committed.
        """
        row = self._tx.job(bytes.fromhex(key.job))
        return None if row is None else round_record(self._tx, row, JobPlan.decode(row.plan), key.round_number).encode()

    def report(self, job: str) -> bytes | None:
        """An aggregator tests no model."""
        del job
        return None
