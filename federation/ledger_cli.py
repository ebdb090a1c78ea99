"""`cloister ledger ...`, but for review and cosign: for stewards and auditors. No torch, no gRPC."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cosign_cli import cosign
from federation.review_cli import review
from federation.trust_options import Ca, Key, Quorum, require_trust
from privacy.errors import ConfigError, VerificationError
from runtime.console import emit, refuse_existing, require_file

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from federation.verification import Trusted
    from privacy.ledger.entry import AnyEntry
    from privacy.ledger.verify import Report
    from runtime.bundle import Bundle
    from runtime.ledger_store import Ledger

app = typer.Typer(no_args_is_help=True, help="Ledger: show, export, verify, report, review, cosign, compare.")
app.command()(review)
app.command()(cosign)

DATABASES = ("silo.db", "aggregator.db")
DAY, SECOND = "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"

State = Annotated[
    Path | None, typer.Option("--state", metavar="FOLDER", help="State folder of a silo agent or an aggregator.")
]
Database = Annotated[str | None, typer.Option("--database", metavar="URL", help="SQLAlchemy URL, instead of --state.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
BundleFile = Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `cloister ledger export` wrote.")]


@app.command()
def show(
    *,
    state: State = None,
    database: Database = None,
    last: Annotated[int, typer.Option(min=0, help="Only this many of the newest entries; 0 means all.")] = 0,
    json: Json = False,
) -> None:
    """List the entries of the ledger in a state folder."""
    _require_place(state, database)
    import json as json_module

    from federation.bundling import archive_of
    from privacy.ledger.codec import decode_entry
    from privacy.ledger.openings import readable

    with _opened(state, database) as (connection, ledger):
        size, origin = ledger.size, ledger.identity.origin
        bodies = list(ledger.entries(since=max(0, size - last) if last else 0))
        openings = archive_of(connection, state).openings()
    value = {"origin": origin, "size": size, "entries": [json_module.loads(body) for body in bodies]}
    lines = [f"{origin}: {size} entries", *(_line(readable(decode_entry(body), openings)) for body in bodies)]
    emit(value, as_json=json, text=lines)


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
    redact: Annotated[
        list[str] | None, typer.Option("--redact", metavar="FIELD", help="Leave out a text that entries commit to.")
    ] = None,
    json: Json = False,
) -> None:
    """Write one file for an auditor: entries, checkpoints, certificate, and the plans and rounds behind them.

    The entries are always all there: a budget cannot be replayed from the middle. FIELD is actor, reason, legal_basis
    or dpia, as far as silo.toml's ledger.committed named it when the entry was written: that has a commitment then.
    """
    _require_place(state, database)
    refuse_existing(out)
    from privacy.ledger.openings import FIELDS

    redacted = tuple(sorted(set(redact or ())))
    if unknown := set(redacted) - set(FIELDS):
        raise ConfigError("--redact", f"{min(unknown)!r} is none of {', '.join(FIELDS)}", "Name one of these.")
    from federation.bundling import archive_of, cards_of, gather, job_named, witnessed
    from privacy.ledger.evidence import Scope
    from runtime.bundle_export import export_bundle

    with _opened(state, database) as (connection, ledger):
        archive = archive_of(connection, state)
        digest = None if job is None else job_named(archive, job)
        scope = Scope(digest, None if since is None else since.strftime(SECOND))
        evidence = gather(ledger, archive, scope, redacted)
        cards = cards_of(ledger, evidence)
        written = export_bundle(ledger, out, evidence, witnessed(connection, ledger), redacted, cards)
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
    quorum: Quorum = 0,
    json: Json = False,
) -> None:
    """Check signatures, tree, every epsilon, every decision and every round; names the first entry that is wrong.

    The key or the CA comes from you, not from the bundle: it is what you trust.
    """
    require_trust(key, ca, quorum)
    require_file(bundle)
    from federation.verification import require_quorum, verified
    from runtime.bundle import opened_bundle

    try:
        with opened_bundle(bundle) as opened:
            trusted = _trust(opened, key, ca)
            report, scope = verified(opened, trusted), opened.head
            require_quorum(report, quorum)
    except VerificationError as fault:
        if not json:
            raise
        entry = getattr(fault, "sequence", None)
        finding = {"entry": entry, "what": fault.what, "why": fault.why, "next_step": fault.next_step}
        emit({"verified": False, "fault": finding}, as_json=True)
        raise typer.Exit(int(fault.exit_code)) from fault
    value = {"verified": True, **asdict(report), "root": report.root.hex(), "public_key": trusted.public_key.hex()}
    value["reviews"] = [{"entry": entry.sequence, **entry.review.model_dump()} for entry in report.reviews]
    value["rotations"] = [
        {"entry": entry.sequence, "utc": entry.utc, "old_key": entry.old_key, "new_key": entry.new_key}
        for entry in report.rotations
    ]
    value["reviewers_certified"] = ca is not None
    asked = {"job": scope.job, "since": scope.since}
    value["redacted"] = scope.redacted
    emit(
        value | {"scope": asked},
        as_json=json,
        text=[*_summary(report, trusted.public_key), *_compared(report, asked)],
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
    require_trust(key, ca)
    refuse_existing(out, registry)
    if registry is not None and registry.absolute() == out.absolute():
        raise ConfigError("--registry", "names the same file as --out", "Name two new files.")
    require_file(bundle)
    from datetime import UTC

    from federation.ledger_report.writing import write_report
    from federation.verification import read_through
    from runtime.bundle import opened_bundle

    with opened_bundle(bundle) as opened:
        found = read_through(opened, _trust(opened, key, ca))
        written = write_report(found, datetime.now(UTC), out, registry)
    emit(
        {"verified": True, **asdict(written)},
        as_json=json,
        text=list(written.lines()),
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
    if len(bundles) < 2:
        raise typer.BadParameter("give at least two bundles", param_hint="BUNDLE...")
    for path in (ca, *bundles):
        require_file(path)
    from federation.comparison import compared

    found = compared(bundles, ca)
    emit(found.value(), as_json=json, text=list(found.lines()))
    if not found.comparison.agree:
        raise typer.Exit(int(VerificationError.exit_code))


def _trust(bundle: "Bundle", key: str | None, ca: Path | None) -> "Trusted":
    """What the caller trusts, one of the two (see `require_trust`)."""
    from federation.verification import trusted_by_ca, trusted_by_key

    return trusted_by_ca(bundle, ca) if ca is not None else trusted_by_key(bundle, key or "")


def _require_place(state: Path | None, database: str | None) -> None:
    if (database is None) == (state is None):
        raise typer.BadParameter("give either --state or --database", param_hint="--state / --database")


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
            "Name the state folder of a silo agent or an aggregator that has run with this version.",
        ) from error


def _engine(state: Path | None, database: str | None) -> "Engine":
    """An engine that reads; SQLite files are opened read-only, so that a mistyped name makes no empty ledger."""
    import sqlite3
    from urllib.parse import quote

    from sqlalchemy import create_engine, make_url

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
    if found.texts_left_out:
        fields = ", ".join(f"{name} of {count} entries" for name, count in found.texts_left_out.items())
        yield f"  left out of this export, as the institution chose: {fields}"
    if found.members_unpinned:
        keys = f"{found.members_unpinned} keys of other members that plans name"
        yield f"  {keys} are pinned nowhere in this log: compare it with the logs of those members"
    if any(asked.values()):
        only = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
        yield f"  the export was of {only}: {found.rounds_out_of_scope} published rounds were not compared"


def _summary(report: "Report", public_key: bytes) -> list[str]:
    lines = [
        f"{report.origin}: verified, {report.entries} entries, {report.checkpoints} signed checkpoints",
        f"  signed by  {public_key.hex()}",
        *(f"     before entry {each.sequence} by {each.old_key}" for each in report.rotations),
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
    lines += [
        f"  witnessed by {each.witness}, last up to entry {each.entries - 1} at {each.utc}"
        for each in report.witnesses or ()
    ]
    if report.witnesses == ():
        lines.append("  witnessed by nobody: an older or another state of this log would verify as well")
    if report.covered_by and report.covered_by[0] < report.entries:
        lines.append(f"  no witness has seen the last {report.entries - report.covered_by[0]} entries")
    if report.automatic_without_policy:
        lines.append(
            f"  {report.automatic_without_policy} approvals by the agent alone, with no policy on record before them"
        )
    for entry in report.reviews:
        due = f", due by {entry.review.due}" if entry.review.due else ""
        lines.append(f"  reviewed by {entry.review.party} in entry {entry.sequence}: {entry.review.finding}{due}")
    return lines
