"""Bundles taken apart and put together again, as somebody would who wants to pass another one for it."""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from certs.names import PartyId, Role
from certs.profile import signing_request
from federation.cards import CardBook
from privacy.canonical import canonical_json
from privacy.errors import CloisterError
from privacy.ledger.checkpoint import Checkpoint, join_notes, sign_checkpoint
from privacy.ledger.codec import decode_entry
from privacy.ledger.cosignature import cosign, with_lines, witness_name
from privacy.ledger.merkle import leaf_hash, root
from runtime.bundle import opened_bundle
from runtime.bundle_form import (
    CHECKPOINTS,
    ENTRIES,
    HEAD,
    IDENTITY,
    LEAVES,
    OPENINGS,
    Head,
    place_of,
    write_members,
)
from tests.ledger_logs import ORIGIN, Log
from tests.pki import NOW, make_ca

Members = dict[str, bytes]


def made_up(log: Log) -> Members:
    """A bundle that verifies with `log.public_key`: its evidence is outside of what it was asked for.

    It has the identity certificate of its owner and of a witness, who cosigned its last checkpoint.
    """
    keys = (*log.earlier, log.key)
    with TemporaryDirectory() as folder:
        ca, witness = make_ca(Path(folder), federation="heart"), Ed25519PrivateKey.generate()
        owner, other = (PartyId("heart", Role.SILO, name) for name in ("hospital-a", "hospital-b"))
        pems = [
            ca.sign_identity(signing_request(key, party).public_bytes(Encoding.PEM), party, NOW)
            for key, party in ((log.key, owner), (witness, other))
        ]
    name, public_key = witness_name("heart", "silo", "hospital-b"), witness.public_key().public_bytes_raw()
    notes = (*log.notes[:-1], with_lines(log.notes[-1], [cosign(log.notes[-1], name, public_key, witness.sign, NOW)]))
    head = Head(
        log=ORIGIN,
        keys=tuple(key.public_key().public_bytes_raw().hex() for key in keys),
        entries=len(log.entries),
        members=7,
        job=None,
        since="2100-01-01T00:00:00Z",
        redacted=(),
    )
    return {
        HEAD: canonical_json(head.model_dump(mode="json")),
        ENTRIES: b"".join(entry + b"\n" for entry in log.entries),
        LEAVES: "".join(f"{leaf.hex()}\n" for leaf in log.leaves).encode(),
        CHECKPOINTS: join_notes(notes).encode(),
        OPENINGS: b"",
        IDENTITY: pems[0],
        "witnesses/silo-hospital-b.pem": pems[1],
    }


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """A bundle of these members in the form of an export; pairs in their order, a mapping in that of an export."""
    pairs = sorted(members.items(), key=lambda item: place_of(item[0])) if isinstance(members, Mapping) else members
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
    return recarded(
        members
        | {
            ENTRIES: b"".join(entry + b"\n" for entry in entries),
            LEAVES: "".join(f"{leaf.hex()}\n" for leaf in leaves).encode(),
            CHECKPOINTS: join_notes((note,)).encode(),
        },
        origin.rpartition("/")[2],
    )


def recarded(members: Members, institution: str) -> Members:
    """With the model cards that an exporter would write: who lies in the entries lies in the cards as well."""
    bare = recounted({name: content for name, content in members.items() if not name.startswith("cards/")})
    with TemporaryDirectory() as folder, opened_bundle(written(Path(folder) / "bare.zip", bare)) as bundle:
        book = CardBook()
        try:
            for body in bundle.entries():
                book.read(decode_entry(body))
            cards = book.cards(bundle.evidence(), institution, bundle.notes()[-1])
        except CloisterError:  # what it is made of is broken: the verifier says so first
            return members
    return recounted(bare | {f"cards/{job}.md": card for job, card in cards.items()})
