"""The first schema of silo.db; what the columns mean stands in silo_agent/tables.py."""

import sqlalchemy as sa
from alembic import op

revision = "silo_0001"
down_revision = None
branch_labels = ("silo",)
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _create_jobs()
    _create_rounds()
    op.create_table(
        "datasets",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("population", sa.String(63), nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("added_utc", sa.String(32), nullable=False),
    )
    op.create_table(
        "dataset_files",
        sa.Column("dataset", sa.String(63), sa.ForeignKey("datasets.name"), primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
    )
    op.create_table(
        "peers",
        sa.Column("role", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("fingerprint", sa.String(79), nullable=False),
        sa.Column("trusted_utc", sa.String(32), nullable=False),
    )
    _create_budgets()
    _create_ledger()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job", sa.LargeBinary(32), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=True),
        sa.Column("decided_by", sa.String(200), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("adapter_round", sa.Integer, nullable=False),
        sa.Column("adapter_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("seen_utc", sa.String(32), nullable=False),
        sa.Column("changed_utc", sa.String(32), nullable=False),
    )
    op.create_table(
        "rolls",
        sa.Column("job", sa.LargeBinary(32), sa.ForeignKey("jobs.job"), primary_key=True),
        sa.Column("joins", sa.Text, nullable=False),
        sa.Column("deal", sa.Text, nullable=False),
        sa.Column("key_commitment", sa.LargeBinary(32), nullable=False),
    )


def _create_rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("job", sa.LargeBinary(32), sa.ForeignKey("jobs.job"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=True),
    )
    op.create_table(
        "statements",
        sa.Column("job", sa.LargeBinary(32), sa.ForeignKey("jobs.job"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("type", sa.String(100), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary(64), nullable=False),
        sa.Column("delivered", sa.Boolean, nullable=False),
    )


def _create_budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("population", sa.String(63), primary_key=True),
        sa.Column("epsilon", sa.Float, nullable=False),
        sa.Column("delta", sa.Float, nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("filter_order", sa.Float, nullable=True),
        sa.Column("committed", sa.Text, nullable=False),
    )
    op.create_table(
        "grants",
        sa.Column("population", sa.String(63), sa.ForeignKey("budgets.population"), primary_key=True),
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("vector", sa.Text, nullable=False),
        sa.Column("committed", sa.Integer, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("population", sa.String(63), sa.ForeignKey("budgets.population"), primary_key=True),
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("vector", sa.Text, nullable=False),
    )


def _create_ledger() -> None:
    op.create_table(
        "ledger_log",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("federation", sa.String(63), nullable=False),
        sa.Column("institution", sa.String(63), nullable=False),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("certificate_pem", sa.LargeBinary, nullable=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("peaks", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(32), nullable=False, index=True),
        sa.Column("leaf_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("signed_utc", sa.String(32), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Budgets and ledgers are never taken back."""
    raise RuntimeError("silo.db is not downgraded: restore the backup made before the upgrade")
