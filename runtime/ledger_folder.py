"""A ledger as a folder of text files, for whoever verifies it (docs/reference/ledger-format.md).

entries.jsonl     one canonical entry per line
leaves.txt        their leaf hashes, in hex, one per line
checkpoints.txt   the signed notes, an empty line between two
identity.pem      the institution's identity certificate, if the ledger has one
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfigError, VerificationError
from privacy.ledger.checkpoint import join_notes, split_notes
from privacy.ledger.entry import MAX_ENTRY_BYTES
from runtime.files import read_file, write_durably
from runtime.ledger_store import Ledger

ENTRIES, LEAVES, CHECKPOINTS, IDENTITY = "entries.jsonl", "leaves.txt", "checkpoints.txt", "identity.pem"
_LIMIT = 1 << 28
_READABLE = 0o644
_NEXT = "Name a folder that `cloister ledger export` wrote."


@dataclass(frozen=True)
class Exported:
    """What an export holds, and how many entries it left out because no checkpoint covers them yet."""

    entries: int
    left_out: int


def export_ledger(ledger: Ledger, folder: Path) -> Exported:
    """Write the entries that a signed checkpoint covers into a new folder.

    Raises ConfigError if the folder exists with something in it, or nothing was signed yet.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"folder {folder}", "is not empty", "Name a new folder.")
    notes = ledger.notes()
    if not notes:
        raise ConfigError("ledger", "no checkpoint was signed yet", "Let the program finish a round, then try again.")
    covered = int(notes[-1].split("\n")[1])
    folder.mkdir(parents=True, exist_ok=True)
    entries = b"".join(entry + b"\n" for entry in ledger.entries(until=covered))
    leaves = "".join(f"{leaf.hex()}\n" for leaf in ledger.leaf_hashes(covered))
    write_durably(folder / ENTRIES, entries, _READABLE)
    write_durably(folder / LEAVES, leaves.encode(), _READABLE)
    write_durably(folder / CHECKPOINTS, join_notes(notes).encode(), _READABLE)
    if ledger.identity.certificate_pem is not None:
        write_durably(folder / IDENTITY, ledger.identity.certificate_pem, _READABLE)
    return Exported(covered, ledger.size - covered)


def read_entries(folder: Path) -> Iterator[bytes]:
    """The entries, one by one, without their line ends. Raises ConfigError if the file is missing."""
    path = folder / ENTRIES
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(str(path), error.strerror or type(error).__name__, _NEXT) from error
    with file:
        while line := file.readline(MAX_ENTRY_BYTES + 2):
            yield line.removesuffix(b"\n")


def read_notes(folder: Path) -> tuple[str, ...]:
    """The signed notes. Raises ConfigError if the file is missing, VerificationError if it is not a list of notes."""
    return split_notes(_text(folder / CHECKPOINTS))


def read_leaves(folder: Path) -> tuple[bytes, ...] | None:
    """The list of leaf hashes, or None if the folder has none. Raises VerificationError if it is not such a list."""
    path = folder / LEAVES
    if not path.exists():
        return None
    try:
        return tuple(bytes.fromhex(line) for line in _text(path).splitlines())
    except ValueError as error:
        raise VerificationError(str(path), "it is not a list of hashes", _NEXT) from error


def read_certificate(folder: Path) -> bytes:
    """The identity certificate. Raises ConfigError if the folder has none."""
    return read_file(folder / IDENTITY, "Give the institution's public key with --key instead.")


def _text(path: Path) -> str:
    try:
        return read_file(path, _NEXT, _LIMIT).decode()
    except UnicodeDecodeError as error:
        raise VerificationError(str(path), "it is not text", _NEXT) from error
