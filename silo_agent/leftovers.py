"""What is over must not stay on the disk: sealed updates and fetched sums of ended rounds, and keys of ended jobs.

Erased when a round or a job ends; `sweep` does it at every start for what a crash came between.
"""

import shutil

from silo_agent.home import Home
from silo_agent.jobs import all_jobs
from silo_agent.round_states import ENDS
from silo_agent.statements import journalled_rounds


def sweep(home: Home) -> None:
    """Forget every job that is over, and take what ended rounds of the others left off the disk."""
    with home.store.reading() as connection:
        known = all_jobs(connection)
        rounds = {record.job: journalled_rounds(connection, record.job) for record in known if not record.state.over}
    for record in known:
        if record.state.over:
            forget(home, record.job)
    for job, journal in rounds.items():
        for number, state in journal.items():
            if isinstance(state, ENDS):
                home.outbox.erase(job, number)
                home.vault.erase_round(job, number)
                _erase_sums(home, job, f"sum-{number}")


def forget(home: Home, job: bytes) -> None:
    """Erase a job's secrets, its sealed updates and the sums it fetched. Adapters and results stay."""
    home.vault.erase(job)
    home.outbox.forget(job)
    _erase_sums(home, job, "sum-*")


def _erase_sums(home: Home, job: bytes, pattern: str) -> None:
    folder = home.folder / "artifacts" / job.hex()
    for path in (*folder.glob(pattern), *folder.glob(f"{pattern}.part")):
        shutil.rmtree(path, ignore_errors=True)
