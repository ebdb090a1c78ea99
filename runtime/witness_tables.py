"""The tables of a witness: what it saw of others' logs, contradictions, cosignatures and whose keys made them."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String, Table, Text


@dataclass(frozen=True)
class WitnessTables:
    """The tables of one witness."""

    seen: Table
    contradictions: Table
    cosignatures: Table
    keys: Table


def witness_tables(metadata: MetaData) -> WitnessTables:
    """Define a witness' tables in a program's metadata."""
    seen = Table(
        "witnessed_logs",
        metadata,
        Column("log", String(200), primary_key=True),
        Column("note", Text, nullable=False),  # the largest checkpoint that was seen, as its owner signed it
    )
    contradictions = Table(  # two checkpoints of one log of which neither continues the other: the proof
        "contradictions",
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("log", String(200), nullable=False),
        Column("first", Text, nullable=False),
        Column("second", Text, nullable=False, unique=True),
        Column("noticed_utc", String(32), nullable=False),
    )
    cosignatures = Table(  # each witness' newest of each size
        "cosignatures",
        metadata,
        Column("log", String(200), primary_key=True),
        Column("size", BigInteger, primary_key=True, autoincrement=False),
        Column("witness", String(200), primary_key=True),
        Column("line", Text, nullable=False),
        Column("cosigned_utc", String(32), nullable=False),
    )
    keys = Table(
        "witness_keys",
        metadata,
        Column("witness", String(200), primary_key=True),
        Column("identity_pem", LargeBinary, nullable=False),
    )
    return WitnessTables(seen, contradictions, cosignatures, keys)
