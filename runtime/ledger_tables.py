"""The tables of one ledger: whose log it is, its entries, the tree over them, its signed checkpoints."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, MetaData, String, Table, Text


@dataclass(frozen=True)
class LedgerTables:
    """The tables of one ledger."""

    log: Table
    entries: Table
    nodes: Table
    checkpoints: Table


def ledger_tables(metadata: MetaData) -> LedgerTables:
    """Define the ledger's tables in a program's metadata."""
    log = Table(
        "ledger_log",
        metadata,
        Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        Column("federation", String(63), nullable=False),
        Column("institution", String(63), nullable=False),
        Column("public_key", LargeBinary(32), nullable=False),
        Column("certificate_pem", LargeBinary, nullable=True),
        Column("size", BigInteger, nullable=False),
        Column("peaks", LargeBinary, nullable=False),  # the frontier's hashes, one after the other
        Column("newest_utc", String(32), nullable=True),  # the latest that an entry states; null: there are none
    )
    entries = Table(
        "ledger_entries",
        metadata,
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("kind", String(32), nullable=False, index=True),
        Column("leaf_hash", LargeBinary(32), nullable=False),  # the tree's nodes of level 0
        Column("body", LargeBinary, nullable=False),
    )
    nodes = Table(  # the tree's other nodes, each written by the entry that completes it
        "ledger_nodes",
        metadata,
        Column("level", Integer, primary_key=True, autoincrement=False),
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("hash", LargeBinary(32), nullable=False),
        sqlite_with_rowid=False,
    )
    checkpoints = Table(
        "ledger_checkpoints",
        metadata,
        Column("size", BigInteger, primary_key=True, autoincrement=False),
        Column("signed_utc", String(32), nullable=False),
        Column("note", Text, nullable=False),
    )
    return LedgerTables(log, entries, nodes, checkpoints)
