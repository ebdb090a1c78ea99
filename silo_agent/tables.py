"""The tables of silo.db. Once-only rules of the protocol are primary keys here: one context and one of each statement
per job and round, one deal per job, one charge per round.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from runtime.ledger_tables import ledger_tables
from runtime.witness_tables import witness_tables

METADATA = MetaData()
LEDGER = ledger_tables(METADATA)
WITNESS = witness_tables(METADATA)

DIGEST = LargeBinary(32)

jobs = Table(
    "jobs",
    METADATA,
    Column("job", DIGEST, primary_key=True),
    Column("name", String(63), nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("dataset", String(63), nullable=True),
    Column("decided_by", String(200), nullable=False),  # who approved or refused: a steward's account, or the policy
    Column("why", Text, nullable=False),  # why it waits, was refused or stopped; for people
    Column("adapter_round", Integer, nullable=False),  # the round whose adapter is current; 0: the plan's initial one
    Column("adapter_digest", DIGEST, nullable=False),
    Column("seen_utc", String(32), nullable=False),
    Column("changed_utc", String(32), nullable=False),
)

rolls = Table(
    "rolls",
    METADATA,
    Column("job", DIGEST, ForeignKey("jobs.job"), primary_key=True),  # one accepted roll and deal a job, ever
    Column("joins", Text, nullable=False),  # JSON list of [body, signature]
    Column("deal", Text, nullable=False),  # JSON [body, signature]; null with one-time keys
    Column("key_commitment", DIGEST, nullable=False),
)

rounds = Table(
    "rounds",
    METADATA,
    Column("job", DIGEST, ForeignKey("jobs.job"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("document", Text, nullable=False),
    Column("record", LargeBinary, nullable=True),  # privacy.record.RoundRecord once there is a certificate
)

statements = Table(
    "statements",
    METADATA,
    Column("job", DIGEST, ForeignKey("jobs.job"), primary_key=True),
    Column("round", Integer, primary_key=True),  # 0: about the job
    Column("type", String(100), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("signature", LargeBinary(64), nullable=False),
    Column("delivered", Boolean, nullable=False),
)

datasets = Table(
    "datasets",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("population", String(63), nullable=False),
    Column("folder", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("added_utc", String(32), nullable=False),
)

dataset_files = Table(  # what a registered dataset consists of, each time it was registered; a digest never leaves
    "dataset_files",
    METADATA,
    Column("dataset", String(63), ForeignKey("datasets.name"), primary_key=True),
    Column("path", Text, primary_key=True),  # resolved
    Column("sha256", String(64), primary_key=True),
)

peers = Table(
    "peers",
    METADATA,
    Column("role", String(20), primary_key=True),  # a name means one party only together with its role
    Column("name", String(63), primary_key=True),
    Column("fingerprint", String(79), nullable=False),
    Column("trusted_utc", String(32), nullable=False),
)

budgets = Table(
    "budgets",
    METADATA,
    Column("population", String(63), primary_key=True),
    Column("epsilon", Float, nullable=False),
    Column("delta", Float, nullable=False),
    Column("unit", String(16), nullable=False),
    Column("filter_order", Float, nullable=True),
    Column("committed", Text, nullable=False),
)

grants = Table(  # what jobs are approved for; a refusal takes it back
    "grants",
    METADATA,
    Column("population", String(63), ForeignKey("budgets.population"), primary_key=True),
    Column("job", String(64), primary_key=True),
    Column("rounds", Integer, nullable=False),
    Column("vector", Text, nullable=False),
    Column("committed", Integer, nullable=False),
)

job_accounts = Table(  # what each job that was ever approved has charged
    "job_accounts",
    METADATA,
    Column("population", String(63), ForeignKey("budgets.population"), primary_key=True),
    Column("job", String(64), primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("committed", Text, nullable=False),
)

sub_caps = Table(  # limits within a budget; the empty purpose: of every single job
    "sub_caps",
    METADATA,
    Column("population", String(63), ForeignKey("budgets.population"), primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("epsilon", Float, nullable=False),
)

openings = Table(  # of commitments in the ledger's entries: privacy/ledger/openings.py
    "openings",
    METADATA,
    Column("sha256", String(64), primary_key=True),
    Column("salt", String(64), nullable=False),
    Column("value", Text, nullable=False),
)

reservations = Table(
    "reservations",
    METADATA,
    Column("population", String(63), ForeignKey("budgets.population"), primary_key=True),
    Column("job", String(64), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("status", String(16), nullable=False),  # reserved, or closed: charged or refunded, never to be used again
    Column("vector", Text, nullable=False),
)
