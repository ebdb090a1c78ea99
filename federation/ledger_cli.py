"""`cloister ledger show | export | verify | report | compare`: for stewards and auditors. No torch, no gRPC."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.review_cli import review
from privacy.errors import ConfigError, VerificationError
from runtime.console import emit

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from certs.names import PartyId
    from federation.ledger_report.page import VerifiedBundle
    from privacy.ledger.compare import Account
    from privacy.ledger.entry import AnyEntry
    from privacy.ledger.verify import Report
    from runtime.bundle import Bundle
    from runtime.ledger_store import Ledger

app = typer.Typer(no_args_is_help=True, help="Ledger: show, export, verify, report, review, compare.")
app.command()(review)

_ASK = "Ask the institution for a fresh export."
DATABASES = ("silo.db", "aggregator.db")
DAY, SECOND = "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"

State = Annotated[
    Path | None, typer.Option("--state", metavar="FOLDER", help="State folder of a silo agent or an aggregator.")
]
Database = Annotated[str | None, typer.Option("--database", metavar="URL", help="SQLAlchemy URL, instead of --state.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
BundleFile = Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `cloister ledger export` wrote.")]
Key = Annotated[
    str | None, typer.Option("--key", metavar="HEX", help="The institution's Ed25519 identity key, 64 hex digits.")
]
Ca = Annotated[
    Path | None, typer.Option("--ca", metavar="PEM", help="The federation's CA, to check the certificate inside.")
]


@app.command()
def show(
    *,
    state: State = None,
    database: Database = None,
    last: Annotated[int, typer.Option(min=0, help="Only this many of the newest entries; 0 means all.")] = 0,
    json: Json = False,
) -> None:
    """List the entries of the ledger in a state folder."""
    import json as json_module

    from privacy.ledger.codec import decode_entry

    with _opened(state, database) as (_, ledger):
        size, origin = ledger.size, ledger.identity.origin
        bodies = list(ledger.entries(since=max(0, size - last) if last else 0))
    value = {"origin": origin, "size": size, "entries": [json_module.loads(body) for body in bodies]}
    lines = [f"{origin}: {size} entries", *(_line(decode_entry(body)) for body in bodies)]
    emit(value, as_json=json, text="\n".join(lines))


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="A new file.")],
    *,
    state: State = None,
    database: Database = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Plan, transcripts and report of this job alone.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", formats=[DAY, SECOND], help="Those of entries from this time (UTC) on alone."),
    ] = None,
    json: Json = False,
) -> None:
    """Write one file for an auditor: entries, checkpoints, certificate, and the plans and rounds behind them.

    The entries are always all there: a budget cannot be replayed from the middle.
    """
    if out.exists():
        raise ConfigError(f"file {out}", "is there already", "Name a new file.")
    from federation.bundling import archive_of, gather, job_named
    from privacy.ledger.evidence import Scope
    from runtime.bundle import export_bundle

    with _opened(state, database) as (connection, ledger):
        archive = archive_of(connection, state)
        digest = None if job is None else job_named(archive, job)
        scope = Scope(digest, None if since is None else since.strftime(SECOND))
        written = export_bundle(ledger, out, gather(ledger, archive, scope))
    later = f"; {written.left_out} newer ones have no signed checkpoint yet" if written.left_out else ""
    emit(
        {"bundle": str(out), **asdict(written)},
        as_json=json,
        text=f"{written.entries} entries, {written.plans} plans, {written.transcripts} transcripts and "
        f"{written.reports} self-tests written to {out}{later}.",
    )


@app.command()
def verify(
    bundle: BundleFile,
    *,
    key: Key = None,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """Check signatures, tree, every epsilon, every decision and every round; names the first entry that is wrong.

    The key or the CA comes from you, not from the bundle: it is what you trust.
    """
    from runtime.bundle import opened_bundle

    try:
        with opened_bundle(bundle) as opened:
            origin, public_key = _trusted(opened, key, ca)
            report = _verified(opened, origin, public_key, ca)
            scope = opened.head
    except VerificationError as fault:
        if not json:
            raise
        entry = getattr(fault, "sequence", None)
        finding = {"entry": entry, "what": fault.what, "why": fault.why, "next_step": fault.next_step}
        emit({"verified": False, "fault": finding}, as_json=True)
        raise typer.Exit(int(fault.exit_code)) from fault
    value = {"verified": True, **asdict(report), "root": report.root.hex(), "public_key": public_key.hex()}
    value["reviews"] = [{"entry": entry.sequence, **entry.review.model_dump()} for entry in report.reviews]
    value["reviewers_certified"] = ca is not None
    asked = {"job": scope.job, "since": scope.since}
    emit(
        value | {"scope": asked},
        as_json=json,
        text="\n".join([*_summary(report, public_key), *_compared(report, asked)]),
    )


@app.command()
def report(
    bundle: BundleFile,
    out: Annotated[Path, typer.Option("--out", metavar="PAGE", help="A new file, in HTML.")],
    *,
    key: Key = None,
    ca: Ca = None,
    registry: Annotated[
        Path | None,
        typer.Option("--registry", metavar="FILE", help="Also a new file with drafts for the DP Deployments Registry."),
    ] = None,
    json: Json = False,
) -> None:
    """Verify a bundle, then write one page about it for a privacy officer: jobs, budgets, refusals, reviews, limits.

    Nothing is written about a bundle that does not verify. The page needs no network and runs no script.
    """
    from datetime import UTC

    from federation.ledger_report.writing import refuse_existing, write_report
    from runtime.bundle import opened_bundle

    refuse_existing(out, registry)
    with opened_bundle(bundle) as opened:
        verified = _read_through(opened, key, ca)
        written = write_report(verified, datetime.now(UTC), out, registry)
    emit(
        {"verified": True, **asdict(written)},
        as_json=json,
        text="\n".join(written.lines()),
    )


@app.command()
def compare(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Exports of several institutions.")],
    *,
    ca: Annotated[
        Path, typer.Option("--ca", metavar="PEM", help="The federation's CA: it vouches for each one's key.")
    ],
    json: Json = False,
) -> None:
    """Verify several institutions' bundles, and find everything that they disagree about.

    Give those of the silos and the aggregator, also older ones of the same institution: a log that forked shows.
    """
    from privacy.ledger.compare import compare as compared
    from runtime.bundle import opened_bundle

    if len(bundles) < 2:
        raise typer.BadParameter("give at least two bundles", param_hint="BUNDLE...")
    accounts = []
    for path in bundles:
        try:
            with opened_bundle(path) as opened:
                accounts.append(_account(opened, ca))
        except VerificationError as fault:
            raise VerificationError(f"{path}: {fault.what}", fault.why, fault.next_step) from fault
    found = compared(accounts)
    rows = [
        {"job": d.key and d.key.job, "round": d.key and d.key.round_number, "who": d.who, "what": d.what} for d in found
    ]
    logs = [
        {"origin": account.origin, "entries": len(account.leaves), "last_utc": account.last_utc} for account in accounts
    ]
    lines = [
        *(f"{log['origin']}: verified, {log['entries']} entries, until {log['last_utc']}" for log in logs),
        *(f"{d.key or 'log'}: {d.what}" for d in found),
        f"{len(found)} disagreements" if found else "They agree on every round that they speak of.",
    ]
    emit({"agree": not found, "logs": logs, "disagreements": rows}, as_json=json, text="\n".join(lines))
    if found:
        raise typer.Exit(int(VerificationError.exit_code))


def _account(bundle: "Bundle", ca: Path) -> "Account":
    """What a bundle says, once it is verified."""
    from certs.names import Role
    from privacy.ledger.checkpoint import log_origin
    from privacy.ledger.codec import decode_entry
    from privacy.ledger.compare import account_of

    party, public_key = _vouched(bundle, ca)
    origin = log_origin(party.federation, party.name)
    _verified(bundle, origin, public_key, ca)
    entries = (decode_entry(body) for body in bundle.entries())
    return account_of(origin, bundle.leaves(), entries, keeps_updates=party.role is Role.SILO)


def verified_with_ca(path: Path, ca: Path) -> "Report":
    """What a bundle adds up to, whose log it is vouched for by the federation's CA. Raises VerificationError."""
    from privacy.ledger.checkpoint import log_origin
    from runtime.bundle import opened_bundle

    with opened_bundle(path) as opened:
        party, public_key = _vouched(opened, ca)
        return _verified(opened, log_origin(party.federation, party.name), public_key, ca)


def _check_reviewers(report: "Report", ca: Path) -> None:
    """Each review was signed by an auditor of this federation, who was one then. Raises LedgerFault."""
    from certs.auditors import check_reviewer
    from certs.times import parse_utc
    from privacy.ledger.verify import LedgerFault
    from runtime.files import read_file

    ca_pem = read_file(ca, "Name the federation's ca.pem.")
    for entry in report.reviews:
        try:
            check_reviewer(entry.review, entry.certificate, ca_pem, parse_utc(entry.utc))
        except VerificationError as error:
            why = f"{error.what}: {error.why}"
            raise LedgerFault(entry.sequence, f"entry {entry.sequence}", why) from error


def _read_through(bundle: "Bundle", key: str | None, ca: Path | None) -> "VerifiedBundle":
    """The bundle verified, with the very entries that the verifier read. Raises VerificationError."""
    from federation.ledger_report.page import VerifiedBundle
    from privacy.ledger.codec import decode_entry
    from privacy.plan import JobPlan

    read: list[AnyEntry] = []

    def entries() -> Iterator[bytes]:
        for body in bundle.entries():
            yield body
            read.append(decode_entry(body))  # asked for the next: the verifier let it pass

    origin, public_key = _trusted(bundle, key, ca)
    found = _verified(bundle, origin, public_key, ca, entries())
    evidence = bundle.evidence()
    plans = {job: JobPlan.decode(plan) for job, plan in evidence.plans.items()}
    return VerifiedBundle(found, public_key, "ca" if key is None else "key", evidence.scope, tuple(read), plans)


def _verified(
    bundle: "Bundle", origin: str, public_key: bytes, ca: Path | None, entries: "Iterator[bytes] | None" = None
) -> "Report":
    """What the bundle adds up to; `entries` are its own, where somebody reads along.

    Raises VerificationError, a LedgerFault where it is about the log.
    """
    from privacy.ledger.verify import verify_log

    entries = bundle.entries() if entries is None else entries
    report = verify_log(entries, bundle.notes(), origin, public_key, bundle.leaves(), bundle.evidence())
    if (bundle.head.log, bundle.head.entries) != (origin, report.entries):
        stated = f"says that it holds {bundle.head.entries} entries of {bundle.head.log}"
        why = f"{stated}, and holds {report.entries} of {origin}"
        raise VerificationError("bundle.json", why, _ASK)
    if ca is not None:
        _check_reviewers(report, ca)
    return report


def _trusted(bundle: "Bundle", key: str | None, ca: Path | None) -> tuple[str, bytes]:
    """Whose log it must be, and the key that must have signed it: from the pinned key or from the CA."""
    from privacy.ledger.checkpoint import log_origin

    if (key is None) == (ca is None):
        raise typer.BadParameter("give either --key or --ca", param_hint="--key / --ca")
    if key is not None:
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ConfigError("--key", "is not 64 hex digits", "`cloister certs show --json` prints it: identity_key.")
        notes = bundle.notes()
        if not notes:
            raise VerificationError("bundle", "it holds no signed checkpoint", _ASK)
        return notes[0].split("\n", 1)[0], bytes.fromhex(key)
    party, public_key = _vouched(bundle, Path(str(ca)))
    return log_origin(party.federation, party.name), public_key


def _vouched(bundle: "Bundle", ca: Path) -> "tuple[PartyId, bytes]":
    """Whose identity certificate is inside, and its key, as the federation's CA vouches for them."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from certs.names import Role
    from certs.verify import CertificateFlaw, Kind, load_ca, read_leaf
    from runtime.bundle import IDENTITY
    from runtime.files import read_file

    trusted = load_ca(read_file(ca, "Name the federation's ca.pem."))
    try:
        leaf = read_leaf(bundle.certificate(), trusted, Kind.IDENTITY)
    except CertificateFlaw as flaw:
        why = f"the certificate {flaw.why}"
        raise VerificationError(IDENTITY, why, "See that --ca is this federation's.") from flaw
    if leaf.party.role not in (Role.SILO, Role.AGGREGATOR):
        raise VerificationError(IDENTITY, f"is that of {leaf.party.uri}, which keeps no ledger", _ASK)
    return leaf.party, leaf.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


@contextmanager
def _opened(state: Path | None, database: str | None) -> "Iterator[tuple[Connection, Ledger]]":
    """The database of a state folder, or the one named, and the ledger in it, for reading as it is at this moment."""
    from sqlalchemy import MetaData
    from sqlalchemy.exc import ArgumentError, DatabaseError

    from runtime.ledger_store import Ledger
    from runtime.ledger_tables import ledger_tables

    try:
        engine = _engine(state, database)
        try:
            with engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # its driver reads each statement's own moment otherwise
                yield connection, Ledger(connection, ledger_tables(MetaData()))
        finally:
            engine.dispose()
    except (ArgumentError, DatabaseError) as error:
        raise ConfigError(
            f"ledger in {state or 'the database'}",
            f"cannot be read ({type(error).__name__})",
            "Name the state folder of a silo agent or an aggregator that has run.",
        ) from error


def _engine(state: Path | None, database: str | None) -> "Engine":
    """An engine that reads; SQLite files are opened read-only, so that a mistyped name makes no empty ledger."""
    import sqlite3
    from urllib.parse import quote

    from sqlalchemy import create_engine, make_url

    if (database is None) == (state is None):
        raise typer.BadParameter("give either --state or --database", param_hint="--state / --database")
    if database is not None:
        url = make_url(database)
        if url.get_backend_name() != "sqlite":
            return create_engine(url, isolation_level="REPEATABLE READ")
        path = Path(url.database or "")
    else:
        path = _found(Path(str(state)))
    place = f"file:{quote(str(path.resolve()))}?mode=ro"
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(place, uri=True))


def _found(state: Path) -> Path:
    for name in DATABASES:
        if (state / name).is_file():
            return state / name
    raise ConfigError(
        f"state folder {state}", f"holds neither {' nor '.join(DATABASES)}", "Name the folder the program runs on."
    )


def _line(entry: "AnyEntry") -> str:
    """One line for a person; who wrote the entry is named unless it was the agent itself."""
    from privacy.ledger.entry import CommitEntry, RefundEntry, RefuseEntry, ReserveEntry

    said: dict[str, Any] = entry.model_dump(mode="json")
    job = f"job {said['job'][:12]}" if said.get("job") else ""
    number = f"round {said['round']}" if said.get("round") is not None else ""
    subject = said.get("population") or said.get("party") or ""
    detail = said.get("outcome") or said.get("decision") or said.get("action") or ""
    balance = ""
    if isinstance(entry, ReserveEntry | CommitEntry | RefundEntry | RefuseEntry) and entry.balance is not None:
        balance = f"spent {entry.balance.spent_epsilon:.3f}, left {entry.balance.remaining_epsilon:.3f}"
    who = f"by {entry.actor}" if said["role"] != "agent" else ""
    what = ", ".join(part for part in (subject, job, number, detail, balance, who) if part)
    return f"{entry.sequence:>5}  {entry.utc[:16].replace('T', ' ')}  {said['kind']:<12}  {what}"


def _compared(report: "Report", asked: dict[str, str | None]) -> Iterator[str]:
    """What of the evidence was compared, and what the bundle leaves out."""
    found = report.evidence
    if found is None:
        return
    absent = f" ({found.reports_absent} were not kept)" if found.reports_absent else ""
    yield (
        f"  compared with {found.plans} plans, {found.transcripts} rounds' transcripts and "
        f"{found.reports} self-tests' reports{absent}"
    )
    if any(asked.values()):
        only = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
        yield f"  the export was of {only}: {found.rounds_out_of_scope} published rounds were not compared"


def _summary(report: "Report", public_key: bytes) -> list[str]:
    lines = [
        f"{report.origin}: verified, {report.entries} entries, {report.checkpoints} signed checkpoints",
        f"  signed by  {public_key.hex()}",
        f"  root       {report.root.hex()}",
        f"  period     {report.first_utc} to {report.last_utc}",
    ]
    for row in report.populations:
        pld = f", PLD {row.spent_pld_epsilon:.3f}" if row.spent_pld_epsilon is not None else ""
        lines.append(
            f"  {row.population}: epsilon {row.spent_epsilon:.3f} of {row.epsilon:g} spent at delta {row.delta:g} "
            f"per {row.unit} (Renyi{pld}), {row.left_epsilon:.3f} left, {row.rounds_committed} rounds charged, "
            f"{row.rounds_reserved} reserved"
        )
    if report.administrators:
        lines.append(f"  two of {', '.join(report.administrators)} together may change a budget")
    for entry in report.reviews:
        due = f", due by {entry.review.due}" if entry.review.due else ""
        lines.append(f"  reviewed by {entry.review.party} in entry {entry.sequence}: {entry.review.finding}{due}")
    return lines
