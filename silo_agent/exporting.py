"""The current global adapter of a job as a PEFT folder, with what this silo's own records say about it."""

from collections import Counter
from pathlib import Path

from privacy.accounting import ZERO, add, rdp_epsilon
from privacy.errors import ConfigError
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import CommitEntry
from privacy.record import RoundRecord
from privacy.statement import read
from privacy.tasks import ModelTask
from privacy.transcript import RoundCommit
from runtime.ledger_store import Ledger
from runtime.model_card import Facts, Spent
from silo_agent.accounts import find_budget
from silo_agent.apply import AdapterShelf
from silo_agent.home import Home
from silo_agent.jobs import JobRecord, named_job
from silo_agent.register import require_dataset
from silo_agent.statements import round_records
from silo_agent.tables import LEDGER


def export_adapter(home: Home, job: str, out: Path) -> Path:
    """Write the adapter after the last applied round into a new folder; returns it.

    Raises ConfigError when no round was applied yet, the job trains no model, or the folder holds files.
    """
    with home.store.reading() as connection:
        record = named_job(connection, job)
    if not isinstance(record.plan.task, ModelTask):
        raise ConfigError(f"job {record.name!r}", "trains no model", "A rehearsal has nothing to export.")
    if record.adapter_round == 0:
        raise ConfigError(f"job {record.name!r}", "has no applied round yet", "`cloister silo status` shows how far.")
    from silo_agent.export import write_adapter

    shelf = AdapterShelf(home.artifacts(record.job), record.plan)
    vector = shelf.load(record.adapter_round, record.adapter_digest)
    with home.store.reading() as connection:
        records = [RoundRecord.decode(data) for data in round_records(connection, record.job).values()]
        notes = Ledger(connection, LEDGER).notes()
    rounds_in = Counter(member.silo for each in records for member in read(each.commit.signed, RoundCommit).members)
    spent = _own_spending(home, record)
    facts = Facts(
        rounds_published=len(records),
        rounds_in=rounds_in,
        charged={} if spent is None else {home.name: spent},
        ledger_checkpoint=" ".join(notes[-1].splitlines()[:3]) if notes else None,
    )
    return write_adapter(out, record.plan, shelf.artifact_path.read_bytes(), vector, facts)


def _own_spending(home: Home, record: JobRecord) -> Spent | None:
    """What this job alone cost this silo, from its ledger's commit entries; None without a dataset."""
    if record.dataset is None:
        return None
    with home.store.reading() as connection:
        population = require_dataset(connection, record.dataset).population
        budget = find_budget(connection, population)
        entries = [decode_entry(body) for body in Ledger(connection, LEDGER).entries()]
    if budget is None:
        return None
    vector = ZERO
    for entry in entries:
        if isinstance(entry, CommitEntry) and entry.job == record.job.hex():
            vector = add(vector, entry.charge.rdp)
    return Spent(rdp_epsilon(vector, budget.policy.delta), budget.policy.delta)
