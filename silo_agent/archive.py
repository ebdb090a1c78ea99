"""What a silo keeps that stands behind its ledger's entries."""

from pathlib import Path

from sqlalchemy import Connection, select

from privacy.budget import RoundKey
from privacy.ledger.openings import Opening
from privacy.record import RoundRecord, SignedText
from privacy.transcript import Applied
from runtime.files import read_file
from silo_agent.statements import said
from silo_agent.tables import jobs, openings, rounds

PREFLIGHT_FILE = "preflight.json"  # in a job's results: the report of its self-test


class Archive:
    """Of one database, and of its state folder if that is given, for as long as one transaction lasts; reads only."""

    def __init__(self, connection: Connection, folder: Path | None) -> None:
        self._connection = connection
        self._folder = folder

    def plans(self) -> dict[str, bytes]:
        """Every job's plan, by its digest in hex."""
        return {row.job.hex(): row.plan for row in self._connection.execute(select(jobs.c.job, jobs.c.plan))}

    def openings(self) -> dict[str, Opening]:
        """The texts that the ledger's entries commit to, by their commitment in hex."""
        rows = self._connection.execute(select(openings))
        return {row.sha256: Opening(sha256=row.sha256, salt=row.salt, value=row.value) for row in rows}

    def transcript(self, key: RoundKey) -> bytes | None:
        """The round's record, kept since its certificate, and what this silo signed of the next adapter after it."""
        job = bytes.fromhex(key.job)
        which = (rounds.c.job == job, rounds.c.round == key.round_number)
        kept = self._connection.execute(select(rounds.c.record).where(*which)).scalar_one_or_none()
        applied = said(self._connection, job, key.round_number, Applied.label())
        if kept is None or applied is None:
            return kept
        return RoundRecord.decode(kept).model_copy(update={"applied": (SignedText.of(applied),)}).encode()

    def report(self, job: str) -> bytes | None:
        """The job's newest self-test report; None if it is not kept. Raises ConfigError if it cannot be read."""
        path = None if self._folder is None else self._folder / "results" / job / PREFLIGHT_FILE
        if path is None or not path.exists():
            return None
        return read_file(path, "Let the account that runs the agent export the ledger.")
