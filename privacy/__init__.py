"""The core an auditor reads: no network, no clock of its own, no files (a memfd inside `ckks/group.py` apart)."""
