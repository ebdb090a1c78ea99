"""The report of a job's self-test, as this silo kept it: facts for `cloister silo preflight`."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privacy.canonical import parse_canonical
from privacy.errors import ConfigError, VerificationError
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import SelfTestEntry
from runtime.ledger_store import Ledger
from silo_agent.archive import PREFLIGHT_FILE
from silo_agent.home import Home
from silo_agent.jobs import JobRecord, named_job
from silo_agent.tables import LEDGER

if TYPE_CHECKING:
    from rich.console import RenderableType


def facts(home: Home, job: str) -> dict[str, Any]:
    """What was measured, and the digest that the ledger has of it.

    Raises ConfigError where there is no report, VerificationError where the ledger has the digest of another.
    """
    with home.store.reading() as connection:
        record = named_job(connection, job)
        ledger = Ledger(connection, LEDGER)
        entries = [decode_entry(data) for data in ledger.entries()]
    path = home.results(record.job) / PREFLIGHT_FILE
    if not path.exists():
        raise ConfigError(f"job {record.name}", _why_none(record), "`cloister silo jobs` shows where it stands.")
    report = path.read_bytes()
    digest = hashlib.sha256(report).hexdigest()
    tests = (entry for entry in entries if isinstance(entry, SelfTestEntry) and entry.job == record.job.hex())
    if digest not in {entry.report_sha256 for entry in tests}:
        why = "is not the one whose digest the ledger has"
        raise VerificationError(str(path), why, "It was altered, or restored from elsewhere. Trust the ledger.")
    return {"job": record.job.hex(), "name": record.name, "report_sha256": digest, **parse_canonical(report, str(path))}


def _why_none(record: JobRecord) -> str:
    if record.plan.dp is None:
        return "is a rehearsal: it trains nothing, so there is nothing to test"
    return "has no self-test that was passed here; it is run when the silo joins an approved job"


def text(found: Mapping[str, Any]) -> "list[RenderableType]":
    """The facts, for people."""
    from runtime.console import table

    rows = [(each["check"], f"{each['measured']:.2g}", f"{each['bound']:.2g}") for each in found["findings"]]
    kinds = [parameter["kind"] for parameter in found["parameters"]]
    trained = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return [
        table(("check", "measured", "bound"), rows, title=f"self-test of {found['name']}"),
        f"trains {found['values']} values in {len(kinds)} tensors ({trained}); gradients by {found['clipping']}",
        f"report, SHA-256 as in the ledger: {found['report_sha256']}",
    ]
