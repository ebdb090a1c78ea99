"""The ledger keeps the latest time of all its entries, where it kept that of the last one."""

from runtime.schema.latest_utc import keep_latest_utc

revision = "aggregator_0004"
down_revision = "aggregator_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """See runtime/schema/latest_utc.py."""
    keep_latest_utc()


def downgrade() -> None:
    """Ledgers are never taken back."""
    raise RuntimeError("the database is not downgraded: restore the backup made before the upgrade")
