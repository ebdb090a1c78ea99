"""The report's files: new ones, each whole or not at all."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from federation.ledger_report.jobs import jobs_of
from federation.ledger_report.page import VerifiedBundle, page
from federation.ledger_report.registry import FOR_A_PERSON, deployments
from federation.ledger_report.words import count
from runtime.files import write_durably

_READABLE = 0o644


@dataclass(frozen=True)
class Written:
    """What was written: the page, and the registry file with so many records, if it was asked for."""

    page: str
    entries: int
    registry: str | None
    records: int

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"Verified; {count(self.entries, 'entry', 'entries')} on the page {self.page}"
        if self.registry is not None:
            yield (
                f"{count(self.records, 'draft')} for the DP Deployments Registry in {self.registry}; for a person to "
                f"fill in: {', '.join(FOR_A_PERSON)}"
            )


def write_report(bundle: VerifiedBundle, now: datetime, out: Path, registry: Path | None) -> Written:
    """Write the page, and the registry's drafts beside it. Raises ConfigError where a file cannot be written."""
    text = page(bundle, now)
    institution = bundle.report.origin.rpartition("/")[2]
    records = [] if registry is None else deployments(jobs_of(bundle.entries, bundle.plans), institution)
    write_durably(out, text.encode(), _READABLE)
    if registry is not None:
        body = json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_durably(registry, body.encode(), _READABLE)
    return Written(str(out), bundle.report.entries, None if registry is None else str(registry), len(records))
