"""Bundles taken apart and put together again, as somebody would who wants to pass another one for it."""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from privacy.canonical import canonical_json
from privacy.ledger.checkpoint import Checkpoint, join_notes, sign_checkpoint
from privacy.ledger.merkle import leaf_hash, root
from runtime.bundle import CHECKPOINTS, ENTRIES, HEAD, LEAVES, write_members

Members = dict[str, bytes]


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """A bundle of these members, in this order, in the form of an export."""
    pairs = members.items() if isinstance(members, Mapping) else members
    file = io.BytesIO()
    write_members(file, ((name, (content,)) for name, content in pairs))
    path.write_bytes(file.getvalue())
    return path


def recounted(members: Members) -> Members:
    """With the number of members that there are."""
    return members | {HEAD: canonical_json(json.loads(members[HEAD]) | {"members": len(members)})}


def resigned(
    members: Members, entries: list[bytes], origin: str, public_key: bytes, sign: Callable[[bytes], bytes]
) -> Members:
    """With other entries, and one checkpoint over them by whoever has the key: what a log's owner can always do."""
    leaves = [leaf_hash(entry) for entry in entries]
    note = sign_checkpoint(Checkpoint(origin, len(entries), root(leaves)), public_key, sign)
    return members | {
        ENTRIES: b"".join(entry + b"\n" for entry in entries),
        LEAVES: "".join(f"{leaf.hex()}\n" for leaf in leaves).encode(),
        CHECKPOINTS: join_notes((note,)).encode(),
    }
