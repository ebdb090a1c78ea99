"""The aggregator witnesses silos' logs and passes their witnesses' words on; it keeps the checkpoints that it had."""

import sqlalchemy as sa
from alembic import op

from runtime.schema.witnesses import keep_witnesses

revision = "aggregator_0003"
down_revision = "aggregator_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """See runtime/schema/witnesses.py; what `checkpoints` held goes into its tables."""
    keep_witnesses()
    op.create_table(
        "log_proofs",
        sa.Column("log", sa.Text, primary_key=True),
        sa.Column("old_size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "witness_sizes",
        sa.Column("witness", sa.Text, primary_key=True),
        sa.Column("log", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "wanted_since",
        sa.Column("log", sa.Text, primary_key=True),
        sa.Column("since", sa.BigInteger, nullable=False),
    )
    kept = sa.table("checkpoints", sa.column("id"), sa.column("checkpoint"))
    newest: dict[str, str] = {}
    for note in op.get_bind().execute(sa.select(kept.c.checkpoint).order_by(kept.c.id)).scalars():
        text = bytes(note).decode()
        newest[text.split("\n", 1)[0]] = text
    seen = sa.table("witnessed_logs", sa.column("log"), sa.column("note"))
    op.bulk_insert(seen, [{"log": log, "note": note} for log, note in newest.items()])
    op.drop_table("checkpoints")


def downgrade() -> None:
    """Ledgers are never taken back."""
    raise RuntimeError("the database is not downgraded: restore the backup made before the upgrade")
