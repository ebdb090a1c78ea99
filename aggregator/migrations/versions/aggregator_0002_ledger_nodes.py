"""The ledger keeps the nodes of its tree, so that a proof reads few of them, and its newest entry's time."""

from runtime.schema.ledger_nodes import keep_ledger_nodes

revision = "aggregator_0002"
down_revision = "aggregator_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """See runtime/schema/ledger_nodes.py."""
    keep_ledger_nodes()
