"""The page: facts of a verified bundle, as tables and sentences, put into one HTML file that needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final, Literal

from certs.times import utc_text
from federation.ledger_report import chart, jobs, reviews, spending, words
from federation.ledger_report.tables import (
    checks_table,
    keys_table,
    refusals_table,
    reviews_table,
    rules_table,
    self_tests_table,
)
from privacy.ledger.entry import AnyEntry, RefuseEntry
from privacy.ledger.evidence import Scope
from privacy.ledger.figures import PopulationReport
from privacy.ledger.verify import Report
from privacy.plan import JobPlan
from runtime.console import printable

TEMPLATE: Final = "page.html.j2"
Trust = Literal["key", "ca"]


@dataclass(frozen=True)
class VerifiedBundle:
    """What `cloister ledger verify` let pass: its report, the very entries it read, and the plans it compared."""

    report: Report
    public_key: bytes
    trust: Trust  # what vouched for the key: it was given itself, or the federation's CA
    scope: Scope
    entries: tuple[AnyEntry, ...]
    plans: Mapping[str, JobPlan]


def page(bundle: VerifiedBundle, now: datetime) -> str:
    """One HTML page: no script, nothing fetched; `now` decides what is overdue.

    Every text of an entry is escaped, and its unprintable signs are replaced.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters |= {"moment": words.moment, "epsilon": lambda value: f"{value:.3f}"}
    source = (files(__package__) / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(**_facts(bundle, now)) + "\n"


def _facts(bundle: VerifiedBundle, now: datetime) -> dict[str, Any]:
    """What the template shows."""
    found = jobs.jobs_of(bundle.entries, bundle.plans)
    rows = reviews.urgent_first(reviews.rows_of(bundle.entries))
    limits = [*words.LIMITS, *([words.SHARED_NOISE] if any(job.shares_noise for job in found) else [])]
    return {
        "institution": bundle.report.origin.rpartition("/")[2],
        "report": bundle.report,
        "key": bundle.public_key.hex(),
        "trust": bundle.trust,
        "scope": words.scope_of(bundle.scope),
        "made": utc_text(now),
        "software": f"cloister {version('cloister')}",
        "populations": [_population(row, bundle) for row in bundle.report.populations],
        "jobs": found,
        "overdue": [row for row in rows if row.overdue(now.date())],
        "open_reviews": sum(not row.settled for row in rows),
        "refusals": refusals_table([e for e in bundle.entries if isinstance(e, RefuseEntry)], found),
        "reviews": reviews_table(rows, now.date()),
        "keys": keys_table(bundle.entries),
        "self_tests": self_tests_table(bundle.entries, found),
        "rules": rules_table(bundle.entries),
        "checks": checks_table(bundle.report, bundle.entries, by_ca=bundle.trust == "ca"),
        "limits": limits,
        "answers": words.ANSWERS,
        "words": words,
    }


def _population(row: PopulationReport, bundle: VerifiedBundle) -> dict[str, Any]:
    levels = spending.levels_of(bundle.entries)[row.population]
    return {
        "row": row,
        "reserved": row.charged_epsilon - row.spent_epsilon,
        "levels": levels,
        "days": spending.by_day(levels),
        "sub_caps": spending.sub_caps_of(bundle.entries, row.population),
        "changes": len({level.cap for level in levels}) > 1,
        "chart": chart.step_chart(levels, bundle.report.last_utc or levels[-1].utc),
    }


def _printable(value: object) -> object:
    """Signs that do not print, or turn the direction of a text, are shown as a replacement sign."""
    return printable(value) if type(value) is str else value  # what is markup already is a class of its own
