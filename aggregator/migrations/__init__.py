"""Schema revisions of the aggregator's database (Alembic)."""
