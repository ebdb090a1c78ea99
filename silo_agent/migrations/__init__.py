"""Alembic revisions of silo.db (runtime.database applies them when the store is opened)."""
