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

import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError

from privacy.budget import RoundKey
from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ConfigError, ProtocolError, VerificationError
from privacy.fields import Hex32, Strict, Text, first_complaint
from privacy.ledger.checkpoint import join_notes, split_notes
from privacy.ledger.entry import MAX_ENTRY_BYTES
from privacy.ledger.evidence import Evidence, Scope
from privacy.ledger.openings import Opening
from runtime.files import sync_folder, write_error
from runtime.ledger_store import Ledger

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
_READABLE = 0o644
_PIECE = 1 << 20
Key = TypeVar("Key")
_NEXT = "Name a file that `cloister ledger export` wrote, whole; or ask for a fresh one."


class Head(Strict):
    """What a bundle says about itself. Whom it is from is proven by the checkpoints alone."""

    version: Literal["cloister/v1/bundle"] = "cloister/v1/bundle"
    log: Text
    entries: Annotated[int, Field(ge=1)]
    redacted: Annotated[tuple[Literal["actor", "dpia", "legal_basis", "reason"], ...], Field(strict=False)]
    members: Annotated[int, Field(ge=5)]  # how many, this one counted
    job: Hex32 | None
    since: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")] | None


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
    head = Head.model_validate({"log": ledger.identity.origin, "entries": covered, "members": members, **said})
    try:
        with draft.open("w+b") as file:
            write_members(file, _contents(ledger, covered, notes, head, evidence, witnesses, cards))
            file.flush()
            os.fchmod(file.fileno(), _READABLE)
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


def write_members(file: IO[bytes], members: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """An archive of these members; nothing of it hangs on the machine, the time or the version of Python."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, pieces in members:
            _put(archive, name, pieces)


def _put(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes]) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = _READABLE << 16
    with archive.open(info, "w", force_zip64=name == ENTRIES) as member:
        for piece in pieces:
            member.write(piece)


class Bundle:
    """An open bundle, its form checked; what it says is checked by `privacy.ledger.verify`."""

    def __init__(self, archive: zipfile.ZipFile, head: Head, names: "Names") -> None:
        self._archive = archive
        self.head = head
        self._names = names

    def entries(self) -> Iterator[bytes]:
        """The entries, one by one, without their line ends."""
        with self._archive.open(ENTRIES) as lines:
            while line := lines.readline(MAX_ENTRY_BYTES + 2):
                yield line.removesuffix(b"\n")

    def notes(self) -> tuple[str, ...]:
        """The signed checkpoints. Raises VerificationError if they are not a list of notes."""
        return split_notes(self._text(CHECKPOINTS))

    def leaves(self) -> tuple[bytes, ...]:
        """The list of leaf hashes. Raises VerificationError if it is not one."""
        lines = self._text(LEAVES).split("\n")
        if lines.pop() or not all(re.fullmatch(r"[0-9a-f]{64}", line) for line in lines):
            raise VerificationError(LEAVES, "it is not a list of hashes", _NEXT)
        return tuple(bytes.fromhex(line) for line in lines)

    def certificate(self) -> bytes:
        """The identity certificate. Raises ConfigError if there is none."""
        if IDENTITY not in self._archive.namelist():
            raise ConfigError("bundle", f"has no {IDENTITY}", "Give the institution's public key with --key instead.")
        return self._archive.read(IDENTITY)

    def witnesses(self) -> dict[str, bytes]:
        """The certificates of witnesses, by the names of their members."""
        return {name: self._archive.read(name) for name in self._names.witnesses}

    def cards(self) -> dict[str, bytes]:
        """The model cards, by job."""
        return {job: self._archive.read(name) for job, name in self._names.cards.items()}

    def evidence(self) -> Evidence:
        """What stands behind the entries, read when it is asked for."""
        return Evidence(
            plans=Members(self._archive, self._names.plans),
            transcripts=Members(self._archive, self._names.transcripts),
            reports=Members(self._archive, self._names.reports),
            scope=Scope(self.head.job, self.head.since),
            openings=self.openings(),
        )

    def openings(self) -> tuple[Opening, ...]:
        """The texts that are open. Raises VerificationError if they are not a list of openings."""
        lines = self._archive.read(OPENINGS).split(b"\n")
        if lines.pop():
            raise VerificationError(OPENINGS, "it is not a list of openings", _NEXT)
        try:
            return tuple(Opening.model_validate(parse_canonical(line, OPENINGS)) for line in lines)
        except ValidationError as error:
            raise VerificationError(OPENINGS, first_complaint(error), _NEXT) from error
        except ProtocolError as error:
            raise VerificationError(error.what, error.why, _NEXT) from error

    def _text(self, name: str) -> str:
        try:
            return self._archive.read(name).decode()
        except UnicodeDecodeError as error:
            raise VerificationError(name, "it is not text", _NEXT) from error


class Members(Mapping[Key, bytes]):
    """Members of an archive by what their names say."""

    def __init__(self, archive: zipfile.ZipFile, names: Mapping[Key, str]) -> None:
        self._archive = archive
        self._names = names

    def __getitem__(self, key: Key) -> bytes:
        """The member's content."""
        return self._archive.read(self._names[key])

    def __iter__(self) -> Iterator[Key]:
        """All keys."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)


@dataclass(frozen=True)
class Names:
    """Which member holds what."""

    plans: dict[str, str]
    transcripts: dict[RoundKey, str]
    reports: dict[str, str]
    witnesses: list[str]
    cards: dict[str, str]


@contextmanager
def opened_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle for reading; nothing is unpacked.

    Raises ConfigError if the file cannot be read, VerificationError if it is not exactly what an export writes: another
    kind of file, cut off, compressed, too large, members of other names or twice, or bytes that belong to none.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            archive = stack.enter_context(zipfile.ZipFile(file))
            bundle = Bundle(archive, *_checked(file, archive))
        except OSError as error:
            raise ConfigError(str(path), error.strerror or type(error).__name__, _NEXT) from error
        # All that zipfile raises for a damaged or foreign archive: NotImplementedError for a compression it lacks,
        # RuntimeError for an encrypted member, ValueError for an impossible name or place.
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
            raise VerificationError(str(path), f"it is no bundle, or not all of one ({error})", _NEXT) from error
        yield bundle


def _checked(file: IO[bytes], archive: zipfile.ZipFile) -> tuple[Head, Names]:
    """What is in it. Every byte has been read, and belongs there."""
    names = _checked_names(archive.infolist())
    head = _head(archive)
    if head.members != len(archive.infolist()):
        _refuse("bundle", f"it has {len(archive.infolist())} members, and was written with {head.members}")
    _require_canonical(file, archive)
    return head, names


def _checked_names(members: list[zipfile.ZipInfo]) -> Names:
    """Raises VerificationError unless each member may be here and is of an honest size."""
    if len(members) > MOST_MEMBERS or sum(info.file_size for info in members) > MOST_BYTES:
        _refuse("bundle", "it is larger than any ledger")
    found = Names({}, {}, {}, [], {})
    seen: set[str] = set()
    for info in members:
        name = info.filename
        if name in seen:
            _refuse(name[:200], "stands in the bundle twice")
        seen.add(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            _refuse(name[:200], "is compressed, which a bundle never is")
        limit = _LIMITS.get(name, MEMBER_BYTES)
        if info.file_size > limit:
            _refuse(name[:200], f"has {info.file_size} bytes, more than {limit}")
        _file_under(found, name)
    missing = {HEAD, ENTRIES, LEAVES, CHECKPOINTS, OPENINGS} - seen
    if missing:
        _refuse("bundle", f"it has no {min(missing)}")
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
        _refuse(repr(name[:200]), "is no name of a bundle's member; a later version may have written it")


def _head(archive: zipfile.ZipFile) -> Head:
    try:
        return Head.model_validate(parse_canonical(archive.read(HEAD), HEAD))
    except ValidationError as error:
        _refuse(HEAD, first_complaint(error), error)
    except ProtocolError as error:
        _refuse(error.what, error.why, error)


def _require_canonical(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Raises VerificationError unless the same content, written again, is the same file."""
    names = sorted(archive.namelist(), key=_order)
    with tempfile.TemporaryFile() as again:
        write_members(again, ((name, _pieces(archive, name)) for name in names))
        same = _same_bytes(file, again)
    if not same:
        _refuse("bundle", "holds bytes that belong to no member, or members in another form than an export writes")


def _pieces(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as member:
        while piece := member.read(_PIECE):
            yield piece


def _order(name: str) -> tuple[int, str, int]:
    fixed = (HEAD, ENTRIES, LEAVES, CHECKPOINTS, OPENINGS, IDENTITY)
    if name in fixed:
        return fixed.index(name), "", 0
    if match := _TRANSCRIPT.fullmatch(name):
        return len(fixed) + _FOLDERS.index("transcripts"), match[1], int(match[2])
    return len(fixed) + _FOLDERS.index(name.partition("/")[0]), name, 0


def _same_bytes(first: IO[bytes], second: IO[bytes]) -> bool:
    place = first.tell()
    try:
        first.seek(0)
        second.seek(0)
        while True:
            one, other = first.read(_PIECE), second.read(_PIECE)
            if one != other:
                return False
            if not one:
                return True
    finally:
        first.seek(place)


def _refuse(what: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise VerificationError(what, why, _NEXT) from cause
