"""The ledger keeps the nodes of its tree, so that a proof reads few of them, and its newest entry's time."""

from runtime.schema.ledger_nodes import keep_ledger_nodes

revision = "silo_0002"
down_revision = "silo_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """See runtime/schema/ledger_nodes.py."""
    keep_ledger_nodes()


def downgrade() -> None:
    """Budgets and ledgers are never taken back."""
    raise RuntimeError("silo.db is not downgraded: restore the backup made before the upgrade")
