"""A silo's ledger that is shown to nobody: for tests without witnesses."""

from silo_agent.witnessing import Showing

TO_NOBODY = Showing(now=lambda: None, soon=lambda: None)
