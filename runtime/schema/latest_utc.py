"""What the revisions silo_0006 and aggregator_0004 do alike: `newest_utc` becomes the latest time of all entries.

It was that of the last one, which is earlier where a clock was set back. As with every revision that was released, this
never changes; it needs none of the programs' own tables.
"""

import json

import sqlalchemy as sa
from alembic import op

_BATCH = 1000
_LOG = sa.table("ledger_log", sa.column("size"), sa.column("newest_utc"))
_ENTRIES = sa.table("ledger_entries", sa.column("sequence"), sa.column("body"))


def keep_latest_utc() -> None:
    """Read it off all entries; a log without entries keeps null."""
    connection, place, latest = op.get_bind(), _ENTRIES.c.sequence, ""
    size = connection.execute(sa.select(_LOG.c.size)).scalar_one_or_none() or 0
    for start in range(0, size, _BATCH):
        page = sa.select(_ENTRIES.c.body).where(place >= start, place < start + _BATCH)
        latest = max([latest, *(json.loads(body)["utc"] for body in connection.execute(page).scalars())])
    if latest:
        connection.execute(sa.update(_LOG).values(newest_utc=latest))
