"""The evidence of a ledger's entries, gathered from the state of the program that wrote them."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection, MetaData, inspect

from federation.cards import CardBook
from privacy.budget import RoundKey
from privacy.errors import ConfigError
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import (
    AnyEntry,
    CommitEntry,
    JobApprovalEntry,
    ReleaseEntry,
    ReserveEntry,
    RoundEntry,
    SelfTestEntry,
)
from privacy.ledger.evidence import Evidence, Scope
from privacy.ledger.openings import Opening, Openings, commitments
from privacy.plan import JobPlan
from runtime.bundle_export import Witnessed
from runtime.ledger_store import Ledger
from runtime.naming import job_meant
from runtime.witness_store import WitnessBook
from runtime.witness_tables import witness_tables

T = TypeVar("T")
SILO_TABLE = "dataset_files"  # only a silo has it


class Archive(Protocol):
    """Where a program keeps plans, transcripts and reports."""

    def plans(self) -> dict[str, bytes]:
        """Every job's plan, by its digest in hex."""
        ...

    def openings(self) -> Openings:
        """The texts that entries commit to, by commitment."""
        ...

    def transcript(self, key: RoundKey) -> bytes | None:
        """A round's record."""
        ...

    def report(self, job: str) -> bytes | None:
        """A job's newest self-test report."""
        ...


def archive_of(connection: Connection, folder: Path | None) -> Archive:
    """The archive in a silo's or an aggregator's database; a silo's reports are in its state folder, if given."""
    if inspect(connection).has_table(SILO_TABLE):
        from silo_agent.archive import Archive as SiloArchive

        return SiloArchive(connection, folder)
    from aggregator.archive import Archive as AggregatorArchive

    return AggregatorArchive(connection)


def job_named(archive: Archive, text: str) -> str:
    """The digest of the job that a person means. Raises ConfigError unless there is exactly one."""
    return job_meant(text, {job: JobPlan.decode(plan).name for job, plan in archive.plans().items()})


def witnessed(connection: Connection, ledger: Ledger) -> Witnessed:
    """Who cosigned the ledger, with the certificates that are kept of them."""
    book = WitnessBook(connection, witness_tables(MetaData()))
    signers = book.signers(ledger.identity.origin)
    kept = {witness: pem for witness, pem in book.keys().items() if witness in signers}
    lost = signers - kept.keys()
    if lost:
        _kept(f"certificate of witness {min(lost)}", None)
    return Witnessed(book.with_cosignatures, {"-".join(name.split("/")[2:]): pem for name, pem in kept.items()})


def cards_of(ledger: Ledger, evidence: Evidence) -> dict[str, bytes]:
    """The model cards of the jobs in the evidence; none before a checkpoint was signed."""
    notes, covered, book = ledger.notes(), ledger.covered, CardBook()
    if not notes or not evidence.transcripts:
        return {}
    for body in ledger.entries_of(("commit", "round")):
        entry = decode_entry(body)
        if entry.sequence < covered:
            book.read(entry)
    return book.cards(evidence, ledger.identity.institution, notes[-1])


def gather(ledger: Ledger, archive: Archive, scope: Scope, redacted: Collection[str] = ()) -> Evidence:
    """All that stands behind the entries in scope which a signed checkpoint covers; and the texts that any of them
    commits to, but the fields that are `redacted`.

    Raises ConfigError naming the first that is not kept: the export would not verify.
    """
    known, plans = archive.plans(), dict[str, bytes]()
    transcripts, reports = dict[RoundKey, bytes](), dict[str, bytes]()
    openings, open_ = archive.openings(), list[Opening]()
    for body in ledger.entries(until=ledger.covered):
        entry = decode_entry(body)
        for name, of in commitments(entry).items():
            if name not in redacted:
                open_.append(_kept(f"{name} of entry {entry.sequence}", openings.get(of)))
        job = _planned(entry)
        if job is None or not scope.holds(entry):
            continue
        plans[job] = _kept(f"plan of job {job[:12]}", known.get(job))
        if isinstance(entry, RoundEntry):
            transcripts[entry.key] = _kept(f"transcript of {entry.key}", archive.transcript(entry.key))
        if isinstance(entry, SelfTestEntry) and entry.report_sha256 is not None:
            report = archive.report(job)
            if report is not None and hashlib.sha256(report).hexdigest() == entry.report_sha256:
                reports[entry.report_sha256] = report
    return Evidence(plans, transcripts, reports, scope, tuple(open_))


def _planned(entry: AnyEntry) -> str | None:
    """The job whose plan the verifier compares the entry with."""
    match entry:
        case JobApprovalEntry() | ReserveEntry() | CommitEntry() | ReleaseEntry() | RoundEntry(outcome="published"):
            return entry.job
        case SelfTestEntry(job=job):
            return job
    return None


def _kept(what: str, found: T | None) -> T:
    if found is None:
        raise ConfigError(
            what,
            "is not kept in this state folder",
            "Export what is (`--since`, `--job`), and tell the auditor what is missing and why.",
        )
    return found
