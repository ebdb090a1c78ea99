"""What the revisions silo_0002 and aggregator_0002 do alike: keep the tree's nodes, and the newest entry's time.

As with every revision that was released, this never changes; it needs none of the programs' own tables.
"""

import json
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from privacy.ledger.merkle import Growth

_BATCH = 1000
_LOG = sa.table("ledger_log", sa.column("size"), sa.column("newest_utc"))
_ENTRIES = sa.table("ledger_entries", sa.column("sequence"), sa.column("leaf_hash"), sa.column("body"))


def keep_ledger_nodes() -> None:
    """Create the table and the column, and fill them from the entries that are there."""
    op.add_column("ledger_log", sa.Column("newest_utc", sa.String(32), nullable=True))
    nodes = op.create_table(
        "ledger_nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    size = connection.execute(sa.select(_LOG.c.size)).scalar_one_or_none() or 0
    if size:
        newest = sa.select(_ENTRIES.c.body).where(_ENTRIES.c.sequence == size - 1)
        utc = json.loads(connection.execute(newest).scalar_one())["utc"]
        connection.execute(sa.update(_LOG).values(newest_utc=utc))
    growth = Growth()
    for leaves in _leaves(connection, size):
        new = [
            {"level": level, "position": (growth.size - 1) >> level, "hash": node}
            for leaf in leaves
            for level, node in enumerate(growth.append(leaf), 1)
        ]
        if new:
            connection.execute(sa.insert(nodes), new)


def _leaves(connection: sa.Connection, size: int) -> Iterator[list[bytes]]:
    place = _ENTRIES.c.sequence
    for start in range(0, size, _BATCH):
        page = sa.select(_ENTRIES.c.leaf_hash).where(place >= start, place < start + _BATCH).order_by(place)
        yield list(connection.execute(page).scalars())
