"""A bundle: one file with a ledger and what stands behind its entries, for whoever verifies it.

A ZIP archive that stores and never compresses, so that any tool lists it and no bomb fits in. Its members, in order:

    bundle.json                 version, log, number of entries, what the export was asked for
    entries.jsonl               one canonical entry per line, those that the last checkpoint covers
    leaves.txt                  their leaf hashes, in hex, one per line
    checkpoints.txt             the signed notes, an empty line between two
    openings.jsonl              texts that entries commit to, one per line in the entries' order, but those left out
    identity.pem                the institution's identity certificate, if the ledger has one
    witnesses/ROLE-NAME.pem     the identity certificate of each witness that cosigned one of the notes
    plans/JOB.json              each job's plan
    reports/SHA256.json         self-tests' reports
    transcripts/JOB-ROUND.json  each published round's transcript
    cards/JOB.md                the model card of each job that trains a model and published a round

Equal content has equal bytes: names, order, times and attributes are fixed; a file that is anything else is refused.
"""

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Annotated, Final, Literal, NoReturn

from pydantic import Field

from privacy.budget import RoundKey
from privacy.errors import VerificationError
from privacy.fields import Hex32, Strict, Text, Utc

VERSION: Final = "cloister/v1/bundle"
HEAD, ENTRIES, LEAVES, CHECKPOINTS, OPENINGS, IDENTITY = (
    "bundle.json",
    "entries.jsonl",
    "leaves.txt",
    "checkpoints.txt",
    "openings.jsonl",
    "identity.pem",
)
WITNESS, CARD = "witnesses/{}.pem", "cards/{}.md"
PLAN, REPORT, TRANSCRIPT = "plans/{}.json", "reports/{}.json", "transcripts/{}-{}.json"
_WITNESS = re.compile(r"witnesses/(silo|aggregator|auditor)-[a-z0-9][a-z0-9-]{0,62}\.pem")
_CARD = re.compile(r"cards/([0-9a-f]{64})\.md")
_PLAN = re.compile(r"plans/([0-9a-f]{64})\.json")
_REPORT = re.compile(r"reports/([0-9a-f]{64})\.json")
_TRANSCRIPT = re.compile(r"transcripts/([0-9a-f]{64})-([1-9][0-9]{0,9})\.json")
MOST_MEMBERS = 200_000
MOST_BYTES = 1 << 36  # of the whole file
MEMBER_BYTES = 1 << 24  # of a plan, a report, a transcript, the certificate
LIST_BYTES = 1 << 28  # of leaves and checkpoints
_LIMITS = {ENTRIES: MOST_BYTES, LEAVES: LIST_BYTES, CHECKPOINTS: LIST_BYTES, OPENINGS: LIST_BYTES}
_FOLDERS = ("witnesses", "plans", "reports", "transcripts", "cards")
_EPOCH = (1980, 1, 1, 0, 0, 0)
READABLE = 0o644
_NEXT = "Name a file that `cloister ledger export` wrote, whole; or ask for a fresh one."


class Head(Strict):
    """What a bundle says about itself. Whom it is from is proven by the checkpoints alone."""

    version: Literal["cloister/v1/bundle"] = VERSION
    log: Text
    keys: Annotated[tuple[Hex32, ...], Field(strict=False, min_length=1, max_length=1000)]  # the log's, oldest first
    entries: Annotated[int, Field(ge=1)]
    redacted: Annotated[tuple[Literal["actor", "dpia", "legal_basis", "reason"], ...], Field(strict=False)]
    members: Annotated[int, Field(ge=5)]  # how many, this one counted
    job: Hex32 | None
    since: Utc | None


@dataclass(frozen=True)
class Names:
    """Which member holds what."""

    plans: dict[str, str]
    transcripts: dict[RoundKey, str]
    reports: dict[str, str]
    witnesses: list[str]
    cards: dict[str, str]


def checked_names(members: list[zipfile.ZipInfo]) -> Names:
    """Raises VerificationError unless each member may be here and is of an honest size."""
    if len(members) > MOST_MEMBERS or sum(info.file_size for info in members) > MOST_BYTES:
        refuse("bundle", "it is larger than any ledger")
    found = Names({}, {}, {}, [], {})
    seen: set[str] = set()
    for info in members:
        name = info.filename
        if name in seen:
            refuse(name[:200], "stands in the bundle twice")
        seen.add(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            refuse(name[:200], "is compressed, which a bundle never is")
        limit = _LIMITS.get(name, MEMBER_BYTES)
        if info.file_size > limit:
            refuse(name[:200], f"has {info.file_size} bytes, more than {limit}")
        _file_under(found, name)
    missing = {HEAD, ENTRIES, LEAVES, CHECKPOINTS, OPENINGS} - seen
    if missing:
        refuse("bundle", f"it has no {min(missing)}")
    return found


def _file_under(found: Names, name: str) -> None:
    if match := _PLAN.fullmatch(name):
        found.plans[match[1]] = name
    elif match := _REPORT.fullmatch(name):
        found.reports[match[1]] = name
    elif match := _TRANSCRIPT.fullmatch(name):
        found.transcripts[RoundKey(match[1], int(match[2]))] = name
    elif match := _CARD.fullmatch(name):
        found.cards[match[1]] = name
    elif _WITNESS.fullmatch(name):
        found.witnesses.append(name)
    elif name not in (HEAD, ENTRIES, LEAVES, CHECKPOINTS, OPENINGS, IDENTITY):
        refuse(repr(name[:200]), "is no name of a bundle's member; a later version may have written it")


def place_of(name: str) -> tuple[int, str, int]:
    """Where a member stands among the others; sorts."""
    fixed = (HEAD, ENTRIES, LEAVES, CHECKPOINTS, OPENINGS, IDENTITY)
    if name in fixed:
        return fixed.index(name), "", 0
    if match := _TRANSCRIPT.fullmatch(name):
        return len(fixed) + _FOLDERS.index("transcripts"), match[1], int(match[2])
    return len(fixed) + _FOLDERS.index(name.partition("/")[0]), name, 0


def write_members(file: IO[bytes], members: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """An archive of these members; nothing of it hangs on the machine, the time or the version of Python."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, pieces in members:
            _put(archive, name, pieces)


def _put(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes]) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = READABLE << 16
    with archive.open(info, "w", force_zip64=name == ENTRIES) as member:
        for piece in pieces:
            member.write(piece)


def refuse(what: str, why: str, cause: Exception | None = None) -> NoReturn:
    """Say what is wrong with a bundle. Raises VerificationError."""
    raise VerificationError(what, why, _NEXT) from cause
