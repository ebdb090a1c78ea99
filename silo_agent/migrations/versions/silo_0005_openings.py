"""Texts that entries commit to, so that an export can leave them out."""

import sqlalchemy as sa
from alembic import op

revision = "silo_0005"
down_revision = "silo_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What stands in the table: privacy/ledger/openings.py."""
    op.create_table(
        "openings",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Budgets and ledgers are never taken back."""
    raise RuntimeError("silo.db is not downgraded: restore the backup made before the upgrade")
