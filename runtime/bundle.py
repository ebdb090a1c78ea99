"""Reading a bundle (runtime/bundle_form.py): its form is checked here, what it says in privacy.ledger.verify."""

import io
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from privacy.canonical import DIGEST_BYTES, canonical_json, parse_canonical
from privacy.errors import ConfigError, ProtocolError, VerificationError
from privacy.fields import first_complaint
from privacy.ledger.checkpoint import split_notes
from privacy.ledger.entry import MAX_ENTRY_BYTES
from privacy.ledger.evidence import Evidence, Scope
from privacy.ledger.openings import Opening
from runtime.bundle_form import (
    CHECKPOINTS,
    ENTRIES,
    HEAD,
    IDENTITY,
    LEAVES,
    OPENINGS,
    VERSION,
    Head,
    Names,
    checked_names,
    place_of,
    refuse,
    write_members,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE = 1 << 16  # what is split and read while the cache next to a core still has it
_HEADER = 30  # bytes
_NEXT = "Name a file that `cloister ledger export` wrote, whole; or ask for a fresh one."
_UNCERTIFIED = (
    "Ask the institution for an export that has it; `cloister ledger verify` and `report` take its public key with "
    "--key instead."
)
Key = TypeVar("Key")


class _Member(io.RawIOBase):
    """A stored member's bytes as they stand in the file: its checksum was right when the bundle was opened.

    A local file header has 30 bytes, its last two numbers being the lengths of name and extra field behind it
    (APPNOTE.TXT 6.3.10, 4.3.7).
    """

    def __init__(self, file: IO[bytes], info: zipfile.ZipInfo) -> None:
        self._file = file.fileno()
        header = os.pread(self._file, _HEADER, info.header_offset)
        self._place = info.header_offset + _HEADER + sum(struct.unpack_from("<HH", header, _HEADER - 4))
        self._end = self._place + info.file_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Reads at its own place: that of the file is others'."""
        count = os.preadv(self._file, [memoryview(buffer)[: self._end - self._place]], self._place)
        self._place += count
        return count


class Bundle:
    """An open bundle, its form checked; what it says is checked by `privacy.ledger.verify`."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, head: Head, names: "Names") -> None:
        self._file = file
        self._archive = archive
        self.head = head
        self._names = names

    def entries(self) -> Iterator[bytes]:
        """The entries, one by one, without their line ends; of a line that is longer than any entry the beginning, as
        the last. Raises VerificationError for a last line without an end.
        """
        with io.BufferedReader(_Member(self._file, self._archive.getinfo(ENTRIES)), _PIECE) as member:
            for line in iter(partial(member.readline, MAX_ENTRY_BYTES + 2), b""):
                if line.endswith(b"\n"):
                    yield line[:-1]
                    continue
                if len(line) <= MAX_ENTRY_BYTES:
                    refuse(ENTRIES, "its last line has no end")
                yield line
                break

    def notes(self) -> tuple[str, ...]:
        """The signed checkpoints. Raises VerificationError if they are not a list of notes."""
        return split_notes(self._text(CHECKPOINTS))

    def leaves(self) -> tuple[bytes, ...]:
        """The list of leaf hashes. Raises VerificationError if it is not one."""
        text = self._text(LEAVES)
        try:
            joined = bytes.fromhex(text)
        except ValueError:
            joined = b""
        if len(joined) % DIGEST_BYTES or text != (joined.hex("\n", DIGEST_BYTES) + "\n" if joined else ""):
            raise VerificationError(LEAVES, "it is not a list of hashes", _NEXT)
        return tuple(joined[place : place + DIGEST_BYTES] for place in range(0, len(joined), DIGEST_BYTES))

    @property
    def has_certificate(self) -> bool:
        """Whether the identity certificate is inside."""
        return IDENTITY in self._archive.namelist()

    def certificate(self) -> bytes:
        """The identity certificate. Raises ConfigError if there is none."""
        if not self.has_certificate:
            raise ConfigError("bundle", f"has no {IDENTITY}", _UNCERTIFIED)
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
            left_out=self.head.redacted,
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
            bundle = Bundle(file, archive, *_checked(file, archive))
        except OSError as error:
            raise ConfigError(str(path), error.strerror or type(error).__name__, _NEXT) from error
        # All that zipfile raises for a damaged or foreign archive: NotImplementedError for a compression it lacks,
        # RuntimeError for an encrypted member, ValueError for an impossible name or place.
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
            raise VerificationError(str(path), f"it is no bundle, or not all of one ({error})", _NEXT) from error
        yield bundle


def _checked(file: IO[bytes], archive: zipfile.ZipFile) -> tuple[Head, Names]:
    """What is in it. Every byte has been read, and belongs there."""
    names = checked_names(archive.infolist())
    head = _head(archive)
    if head.members != len(archive.infolist()):
        refuse("bundle", f"it has {len(archive.infolist())} members, and was written with {head.members}")
    _require_canonical(file, archive)
    return head, names


def _head(archive: zipfile.ZipFile) -> Head:
    try:
        data = archive.read(HEAD)
        value = parse_canonical(data, HEAD)
        version = value.get("version") if isinstance(value, dict) else None
        if isinstance(version, str) and version != VERSION:
            why = f"is of version {version[:80]!r}, which this version of Cloister does not know"
            raise VerificationError(HEAD, why, "Verify it with a newer version of Cloister, which may know it.")
        head = Head.model_validate(value)
    except ValidationError as error:
        refuse(HEAD, first_complaint(error), error)
    except ProtocolError as error:
        refuse(error.what, error.why, error)
    if canonical_json(head.model_dump(mode="json")) != data:
        refuse(HEAD, "a field is missing or in another form")
    return head


def _require_canonical(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Raises VerificationError unless the same content, written again, is the same file."""
    names = sorted(archive.namelist(), key=place_of)
    with tempfile.TemporaryFile() as again:
        write_members(again, ((name, _pieces(archive, name)) for name in names))
        same = _same_bytes(file, again)
    if not same:
        refuse("bundle", "holds bytes that belong to no member, or members in another form than an export writes")


def _pieces(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as member:
        while piece := member.read(_PIECE):
            yield piece


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
