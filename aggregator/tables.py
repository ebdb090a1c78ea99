"""The aggregator's tables. No secret that opens anything is among what they hold."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from runtime.ledger_tables import ledger_tables
from runtime.witness_tables import witness_tables

METADATA = MetaData()
LEDGER = ledger_tables(METADATA)
WITNESS = witness_tables(METADATA)

JOBS = Table(
    "jobs",
    METADATA,
    Column("job", LargeBinary, primary_key=True),  # digest of the plan
    Column("name", Text, nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("roll", Text, nullable=True),  # JSON list of names; null until the roll is fixed
    Column("deadline_utc", Text, nullable=True),
    Column("submitted_by", Text, nullable=False),
    Column("submitted_utc", Text, nullable=False),
    Column("closed_utc", Text, nullable=True),
    Column("forgotten", Boolean, nullable=False, default=False),  # its blobs were removed
)

STATEMENTS = Table(
    "statements",
    METADATA,
    Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
    Column("round", Integer, primary_key=True),  # 0: about the job
    Column("kind", Text, primary_key=True),
    Column("signer", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("received_utc", Text, nullable=False),
)

MAILS = Table(
    "mails",
    METADATA,
    Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
    Column("addressee", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

ROUNDS = Table(
    "rounds",
    METADATA,
    Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("phase", Integer, nullable=False),
    Column("participants", Text, nullable=False),  # JSON list of names
    Column("adapter", LargeBinary, nullable=False),  # digest of the adapter it starts from
    Column("result", LargeBinary, nullable=True),  # digest of the adapter that came of it
    Column("certified", Boolean, nullable=False, default=False),
    Column("reason", Text, nullable=False, default=""),
    Column("deadline_utc", Text, nullable=True),
    Column("opened_utc", Text, nullable=False),
    Column("closed_utc", Text, nullable=True),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("aggregation_ns", BigInteger, nullable=False, default=0),
)

UPLOADS = Table(
    "uploads",
    METADATA,
    Column("job", LargeBinary, ForeignKey("jobs.job"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("silo", Text, primary_key=True),
    Column("bytes_received", BigInteger, nullable=False),
)

MEMBERS = Table(
    "members",
    METADATA,
    Column("role", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("identity_key", LargeBinary, nullable=False),
    Column("identity_pem", LargeBinary, nullable=False),
    Column("enrolled_utc", Text, nullable=False),
)

INVITATIONS = Table(
    "invitations",
    METADATA,
    Column("secret_sha256", Text, primary_key=True),
    Column("party", Text, nullable=False),
    Column("expires_utc", Text, nullable=False),
    Column("request_sha256", Text, nullable=True),
    Column("tls_pem", LargeBinary, nullable=True),
    Column("identity_pem", LargeBinary, nullable=True),
)

LOG_PROOFS = Table(  # from sizes that witnesses have seen to a log's newest checkpoint, as its owner made them
    "log_proofs",
    METADATA,
    Column("log", Text, primary_key=True),
    Column("old_size", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

WITNESS_SIZES = Table(
    "witness_sizes",
    METADATA,
    Column("witness", Text, primary_key=True),
    Column("log", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
)

WANTED_SINCE = Table(  # how old a cosignature may be that a log's owner counts; seconds since 1970
    "wanted_since",
    METADATA,
    Column("log", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
