"""Writing a bundle (runtime/bundle_form.py) from a ledger and the evidence of its entries."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy.budget import RoundKey
from privacy.canonical import canonical_json
from privacy.errors import ConfigError
from privacy.ledger.checkpoint import join_notes
from privacy.ledger.evidence import Evidence
from runtime.bundle_form import (
    CARD,
    CHECKPOINTS,
    ENTRIES,
    HEAD,
    IDENTITY,
    LEAVES,
    OPENINGS,
    PLAN,
    READABLE,
    REPORT,
    TRANSCRIPT,
    WITNESS,
    Head,
    write_members,
)
from runtime.files import sync_folder, write_error
from runtime.ledger_store import Ledger


@dataclass(frozen=True)
class Witnessed:
    """Who cosigned a ledger: `cosigned` adds their lines to a note; certificates by `ROLE-NAME`, PEM."""

    cosigned: Callable[[str], str] = str
    certificates: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What an export holds, and how many entries it left out because no checkpoint covers them yet."""

    entries: int
    left_out: int
    plans: int
    transcripts: int
    reports: int


def export_bundle(
    ledger: Ledger,
    path: Path,
    evidence: Evidence,
    witnesses: Witnessed = Witnessed(),
    redacted: tuple[str, ...] = (),
    cards: Mapping[str, bytes] | None = None,
) -> Exported:
    """Write the entries that a signed checkpoint covers, and their evidence, into a new file; whole or not at all.

    `redacted` is what the evidence's openings leave out, as the file says of itself; `cards` are model cards by job.

    A file of that name is replaced. Raises ConfigError if it cannot be written, or nothing was signed yet.
    """
    notes = tuple(witnesses.cosigned(note) for note in ledger.notes())
    if not notes:
        raise ConfigError("ledger", "no checkpoint was signed yet", "Let the program finish a round, then try again.")
    covered = ledger.covered
    draft = path.with_name(f".{path.name}.draft")
    scope = evidence.scope
    certificate = ledger.identity.certificate_pem
    members = 5 + (certificate is not None) + len(evidence.plans) + len(evidence.transcripts)
    cards = cards or {}
    members += len(evidence.reports) + len(witnesses.certificates) + len(cards)
    said = {"job": scope.job, "since": scope.since_utc, "redacted": redacted}
    keys = tuple(key.hex() for key in ledger.keys().keys)
    whose = {"log": ledger.identity.origin, "keys": keys}
    head = Head.model_validate({**whose, "entries": covered, "members": members, **said})
    try:
        with draft.open("w+b") as file:
            write_members(file, _contents(ledger, covered, notes, head, evidence, witnesses, cards))
            file.flush()
            os.fchmod(file.fileno(), READABLE)
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise write_error(path, error) from error
    return Exported(
        covered,
        ledger.size - covered,
        len(evidence.plans),
        len(evidence.transcripts),
        len(evidence.reports),
    )


def _contents(
    ledger: Ledger,
    covered: int,
    notes: tuple[str, ...],
    head: Head,
    evidence: Evidence,
    witnesses: Witnessed,
    cards: Mapping[str, bytes],
) -> Iterator[tuple[str, Iterable[bytes]]]:
    yield HEAD, (canonical_json(head.model_dump(mode="json")),)
    yield ENTRIES, (entry + b"\n" for entry in ledger.entries(until=covered))
    yield LEAVES, (f"{leaf.hex()}\n".encode() for leaf in ledger.leaf_hashes(covered))
    yield CHECKPOINTS, (join_notes(notes).encode(),)
    yield OPENINGS, (canonical_json(opening.model_dump()) + b"\n" for opening in evidence.openings)
    if (certificate := ledger.identity.certificate_pem) is not None:
        yield IDENTITY, (certificate,)
    for witness, pem in sorted(witnesses.certificates.items()):
        yield WITNESS.format(witness), (pem,)
    for job, plan in sorted(evidence.plans.items()):
        yield PLAN.format(job), (plan,)
    for digest, report in sorted(evidence.reports.items()):
        yield REPORT.format(digest), (report,)
    for key, transcript in sorted(evidence.transcripts.items(), key=lambda item: _place(item[0])):
        yield TRANSCRIPT.format(key.job, key.round_number), (transcript,)
    for job, card in sorted(cards.items()):
        yield CARD.format(job), (card,)


def _place(key: RoundKey) -> tuple[str, int]:
    return key.job, key.round_number
