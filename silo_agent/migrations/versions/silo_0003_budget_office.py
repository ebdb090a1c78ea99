"""Budget office: what each job has charged, and the sub-caps. The accounts of jobs so far are those of the ledger."""

import json

import sqlalchemy as sa
from alembic import op

revision = "silo_0003"
down_revision = "silo_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both tables, and fill in the jobs that were approved before."""
    accounts = op.create_table(
        "job_accounts",
        sa.Column("population", sa.String(63), sa.ForeignKey("budgets.population"), primary_key=True),
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("committed", sa.Text, nullable=False),
    )
    op.create_table(
        "sub_caps",
        sa.Column("population", sa.String(63), sa.ForeignKey("budgets.population"), primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("epsilon", sa.Float, nullable=False),
    )
    entries = sa.table("ledger_entries", sa.column("sequence"), sa.column("kind"), sa.column("body"))
    query = sa.select(entries.c.body).where(entries.c.kind.in_(("job-approval", "commit")))
    found: dict[tuple[str, str], tuple[str, list[float]]] = {}
    for body in op.get_bind().execute(query.order_by(entries.c.sequence)).scalars():
        entry = json.loads(body)
        if entry["charge"] is None:
            continue
        key, charged = (entry["population"], entry["job"]), [float(value) for value in entry["charge"]["rdp"]]
        if entry["kind"] == "job-approval":
            found.setdefault(key, (entry["purpose"], [0.0] * len(charged)))
        else:
            purpose, before = found[key]
            total = [min(a + b, float(2**20)) for a, b in zip(before, charged, strict=True)]
            found[key] = (purpose, total)
    rows = [
        {"population": population, "job": job, "purpose": purpose, "committed": json.dumps(committed)}
        for (population, job), (purpose, committed) in found.items()
    ]
    op.bulk_insert(accounts, rows)


def downgrade() -> None:
    """Budgets and ledgers are never taken back."""
    raise RuntimeError("silo.db is not downgraded: restore the backup made before the upgrade")
