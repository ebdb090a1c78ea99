"""The ledger keeps the latest time of all its entries, where it kept that of the last one."""

from runtime.schema.latest_utc import keep_latest_utc

revision = "silo_0006"
down_revision = "silo_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """See runtime/schema/latest_utc.py."""
    keep_latest_utc()


def downgrade() -> None:
    """Ledgers are never taken back."""
    raise RuntimeError("silo.db is not downgraded: restore the backup made before the upgrade")
