"""`cloister ledger cosign`: an auditor as a witness, from bundle to bundle, without a connection."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy.errors import ConfigError, VerificationError
from runtime.console import emit, refuse_existing, require_file
from silo_agent.command import now

if TYPE_CHECKING:
    from datetime import datetime

    from privacy.ledger.handed import SeenLogs
    from privacy.ledger.verify import Report


def cosign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="It is verified first.")],
    *,
    wallet: Annotated[
        Path, typer.Option("--wallet", metavar="FOLDER", help="Your keys: `cloister certs issue auditor NAME`.")
    ],
    seen: Annotated[
        Path,
        typer.Option("--seen", metavar="FILE", help="What you have seen of logs; made by the first --first-visit."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The cosignature, a new file.")],
    first_visit: Annotated[
        bool, typer.Option("--first-visit", help="You have seen nothing of this log: there is nothing to compare with.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Confirm that a bundle continues what you saw of its log before, and cosign its newest checkpoint.

    The institution adds the file to its ledger: `cloister silo witnesses add FILE`. A log that was cut back or
    rewritten since your last visit is refused.
    """
    require_file(bundle)
    refuse_existing(out)
    from certs.names import Role
    from certs.wallet import Wallet

    own = Wallet(wallet).signer(now(), Role.AUDITOR)
    known = _seen(seen, first_visit=first_visit)
    from federation.verification import trusted_by_ca, verified
    from privacy.ledger.cosignature import cosign as cosign_note
    from privacy.ledger.cosignature import witness_name
    from privacy.ledger.handed import HandedCosignature
    from runtime.bundle import opened_bundle
    from runtime.files import write_durably

    with opened_bundle(bundle) as opened:
        report, note = verified(opened, trusted_by_ca(opened, wallet / "ca.pem")), opened.notes()[-1]
        _check_visit(report.origin, known, seen, first_visit=first_visit)
        _check_continues(report, known, opened.leaves())
    _check_past(report, now())
    name = witness_name(own.party.federation, own.party.role, own.party.name)
    line = cosign_note(note, name, own.public_key, own.sign, now())
    certificate = own.certificate_pem.decode()
    handed = HandedCosignature(log=report.origin, size=report.entries, line=line, certificate=certificate)
    write_durably(seen, _and(known, report).encode(), 0o644)  # first: no cosignature is out that is not remembered
    write_durably(out, handed.encode(), 0o644)
    before = 0 if first_visit else known.logs[report.origin].size
    compared = "seen for the first time" if first_visit else f"continues the {before} entries seen before"
    text = f"{report.origin} with {report.entries} entries, {compared}, is cosigned in {out}"
    value = {"file": str(out), "log": report.origin, "entries": report.entries, "seen_before": before}
    emit(value, as_json=json, text=text)


def _seen(path: Path, *, first_visit: bool) -> "SeenLogs":
    """What was seen before. Raises ConfigError without the file, unless this is a first visit."""
    from privacy.ledger.handed import SeenLogs
    from runtime.files import read_file

    if first_visit and not path.exists():
        return SeenLogs()
    return SeenLogs.decode(read_file(path, "Name the file of your last visit, or say --first-visit."))


def _check_past(report: "Report", moment: "datetime") -> None:
    """No entry is of the future. Raises VerificationError."""
    from privacy.ledger.clock import is_ahead

    if report.last_utc is not None and is_ahead(report.last_utc, moment):
        why = f"it has an entry of {report.last_utc}, and by this machine's clock it is {moment:%Y-%m-%dT%H:%M:%SZ}"
        raise VerificationError(report.origin, why, "Set your clock if it is behind; else cosign after that time.")


def _check_visit(log: str, known: "SeenLogs", seen: Path, *, first_visit: bool) -> None:
    """The file knows the log unless this is a first visit: a wrong file compares with nothing. Raises ConfigError."""
    if first_visit == (log not in known.logs):
        return
    if first_visit:
        why, step = f"knows {log}, with {known.logs[log].size} entries", "Leave out --first-visit."
    else:
        why, step = f"knows nothing of {log}", "Name the file of your last visit, or say --first-visit."
    raise ConfigError(f"file {seen}", why, step)


def _check_continues(report: "Report", known: "SeenLogs", leaves: tuple[bytes, ...]) -> None:
    """The verified log begins with what was seen of it. Raises VerificationError."""
    from privacy.ledger.merkle import root

    before = known.logs.get(report.origin)
    if before is None:
        return  # a first visit
    step = "Keep this bundle and that of your last visit: both are signed, and prove it."
    if before.size > report.entries:
        why = f"it has {report.entries} entries, and had {before.size} at your last visit: it was cut back"
        raise VerificationError(f"log {report.origin}", why, step)
    if root(leaves[: before.size]).hex() != before.root:
        why = f"its first {before.size} entries are not those of your last visit: it was rewritten"
        raise VerificationError(f"log {report.origin}", why, step)


def _and(known: "SeenLogs", report: "Report") -> "SeenLogs":
    from privacy.ledger.handed import SeenLogs, SeenState

    state = SeenState(size=report.entries, root=report.root.hex())
    return SeenLogs(logs={**known.logs, report.origin: state})
