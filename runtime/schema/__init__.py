"""Alembic's environment, shared by every database of the project."""
