"""The aggregator's first tables: jobs, statements, rounds, parties, checkpoints, and its own ledger."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)

revision = "aggregator_0001"
down_revision = None
branch_labels = ("aggregator",)
depends_on = None


def upgrade() -> None:
    """Create them."""
    _create_jobs()
    _create_rounds()
    _create_parties()
    _create_ledger()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        Column("job", LargeBinary, primary_key=True),
        Column("name", Text, nullable=False),
        Column("plan", LargeBinary, nullable=False),
        Column("phase", Integer, nullable=False),
        Column("reason", Text, nullable=False),
        Column("roll", Text, nullable=True),
        Column("deadline_utc", Text, nullable=True),
        Column("submitted_by", Text, nullable=False),
        Column("submitted_utc", Text, nullable=False),
        Column("closed_utc", Text, nullable=True),
        Column("forgotten", Boolean, nullable=False),
    )
    op.create_table(
        "statements",
        Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
        Column("round", Integer, primary_key=True),
        Column("kind", Text, primary_key=True),
        Column("signer", Text, primary_key=True),
        Column("body", LargeBinary, nullable=False),
        Column("signature", LargeBinary, nullable=False),
        Column("received_utc", Text, nullable=False),
    )
    op.create_table(
        "mails",
        Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
        Column("addressee", Text, primary_key=True),
        Column("sealed", LargeBinary, nullable=False),
    )


def _create_rounds() -> None:
    op.create_table(
        "rounds",
        Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
        Column("round", Integer, primary_key=True),
        Column("phase", Integer, nullable=False),
        Column("participants", Text, nullable=False),
        Column("adapter", LargeBinary, nullable=False),
        Column("result", LargeBinary, nullable=True),
        Column("certified", Boolean, nullable=False),
        Column("reason", Text, nullable=False),
        Column("deadline_utc", Text, nullable=True),
        Column("opened_utc", Text, nullable=False),
        Column("closed_utc", Text, nullable=True),
        Column("seconds", Float, nullable=False),
        Column("aggregation_ns", BigInteger, nullable=False),
    )
    op.create_table(
        "uploads",
        Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
        Column("round", Integer, primary_key=True),
        Column("silo", Text, primary_key=True),
        Column("bytes_received", BigInteger, nullable=False),
    )


def _create_parties() -> None:
    op.create_table(
        "members",
        Column("role", Text, primary_key=True),
        Column("name", Text, primary_key=True),
        Column("identity_key", LargeBinary, nullable=False),
        Column("identity_pem", LargeBinary, nullable=False),
        Column("enrolled_utc", Text, nullable=False),
    )
    op.create_table(
        "invitations",
        Column("secret_sha256", Text, primary_key=True),
        Column("party", Text, nullable=False),
        Column("expires_utc", Text, nullable=False),
        Column("request_sha256", Text, nullable=True),
        Column("tls_pem", LargeBinary, nullable=True),
        Column("identity_pem", LargeBinary, nullable=True),
    )
    op.create_table(
        "checkpoints",
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("silo", Text, nullable=False),
        Column("checkpoint", LargeBinary, nullable=False),
        Column("received_utc", Text, nullable=False),
        UniqueConstraint("silo", "checkpoint"),
    )


def _create_ledger() -> None:
    op.create_table(
        "ledger_log",
        Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        Column("federation", String(63), nullable=False),
        Column("institution", String(63), nullable=False),
        Column("public_key", LargeBinary(32), nullable=False),
        Column("certificate_pem", LargeBinary, nullable=True),
        Column("size", BigInteger, nullable=False),
        Column("peaks", LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_entries",
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("kind", String(32), nullable=False, index=True),
        Column("leaf_hash", LargeBinary(32), nullable=False),
        Column("body", LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_checkpoints",
        Column("size", BigInteger, primary_key=True, autoincrement=False),
        Column("signed_utc", String(32), nullable=False),
        Column("note", Text, nullable=False),
    )
