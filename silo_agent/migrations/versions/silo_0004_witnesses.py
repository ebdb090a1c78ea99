"""A silo witnesses others' logs, and keeps the cosignatures of its own."""

from runtime.schema.witnesses import keep_witnesses

revision = "silo_0004"
down_revision = "silo_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """See runtime/schema/witnesses.py."""
    keep_witnesses()


def downgrade() -> None:
    """Budgets and ledgers are never taken back."""
    raise RuntimeError("silo.db is not downgraded: restore the backup made before the upgrade")
