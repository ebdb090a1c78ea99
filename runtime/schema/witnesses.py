"""What the revisions silo_0004 and aggregator_0003 do alike: the tables of a witness."""

import sqlalchemy as sa
from alembic import op


def keep_witnesses() -> None:
    """Create the tables; runtime/witness_tables.py says what is in them."""
    op.create_table(
        "witnessed_logs",
        sa.Column("log", sa.String(200), primary_key=True),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "contradictions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("log", sa.String(200), nullable=False),
        sa.Column("first", sa.Text, nullable=False),
        sa.Column("second", sa.Text, nullable=False, unique=True),
        sa.Column("noticed_utc", sa.String(32), nullable=False),
    )
    op.create_table(
        "cosignatures",
        sa.Column("log", sa.String(200), primary_key=True),
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("witness", sa.String(200), primary_key=True),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("cosigned_utc", sa.String(32), nullable=False),
    )
    op.create_table(
        "witness_keys",
        sa.Column("witness", sa.String(200), primary_key=True),
        sa.Column("identity_pem", sa.LargeBinary, nullable=False),
    )
