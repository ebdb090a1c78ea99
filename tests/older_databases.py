"""Databases as an older version left them: what later revisions added is taken away again."""

from sqlalchemy import Connection, text

_WITNESS = ("witnessed_logs", "contradictions", "cosignatures", "witness_keys")
TABLES = {
    "silo": {3: ("job_accounts", "sub_caps"), 4: _WITNESS, 5: ("openings",)},
    "aggregator": {3: (*_WITNESS, "log_proofs", "witness_sizes", "wanted_since")},
}
CHECKPOINTS = (
    "create table checkpoints (id integer primary key, silo text not null, checkpoint blob not null, "
    "received_utc text not null, unique (silo, checkpoint))"
)


def made_older(connection: Connection, program: str, revision: int) -> None:
    """The database of `silo` or `aggregator` as that revision had it."""
    for later, tables in TABLES[program].items():
        for table in tables if later > revision else ():
            connection.execute(text(f"drop table {table}"))
    if program == "aggregator" and revision < 3:
        connection.execute(text(CHECKPOINTS))
    if revision < 2:
        connection.execute(text("drop table ledger_nodes"))
        connection.execute(text("alter table ledger_log drop column newest_utc"))
    connection.execute(text(f"update alembic_version set version_num = '{program}_{revision:04}'"))
