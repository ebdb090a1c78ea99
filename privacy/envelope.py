"""The signed header of an update: what binds one silo's ciphertext to one round (reference/protocol.md, step 1)."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from privacy.fields import Hex32
from privacy.statement import RoundStatement, Signed, read
from privacy.suites import Suite


class UpdateHeader(RoundStatement):
    """`ckks-group`: everything about an update but its bytes; the digests stand for those.

    `residues_root` is the RFC 6962 tree hash over the residue chunks in order; `seeds_sha256` covers the seeds of all
    blocks; `key_commitment` says under which cohort key the silo sealed, so that a dealer who hands out different
    keys is found before anything is summed.
    """

    type: Literal["cloister/v1/update"] = "cloister/v1/update"
    values: Annotated[int, Field(gt=0)]
    key_commitment: Hex32
    residues_root: Hex32
    seeds_sha256: Hex32


class KeyedUpdateHeader(RoundStatement):
    """`ckks-multikey`: everything about an update but its bytes, and who was sent which share of its one-time key.

    `roll` is the digest of the joins whose keys the mails were sealed to: members of one sum used the same. `mails`
    is `privacy.keyed.mails_digest` of the share mails, one for every participant.
    """

    type: Literal["cloister/v1/keyed-update"] = "cloister/v1/keyed-update"
    values: Annotated[int, Field(gt=0)]
    roll: Hex32
    residues_root: Hex32
    mails: Hex32


AnyHeader = UpdateHeader | KeyedUpdateHeader


def header_kind(suite: Suite) -> type[UpdateHeader] | type[KeyedUpdateHeader]:
    """Which header updates of a suite have."""
    return KeyedUpdateHeader if suite.keyed else UpdateHeader


def read_header(suite: Suite, header: Signed) -> AnyHeader:
    """Parse a header strictly, without checking its signature. Raises ProtocolError."""
    return read(header, header_kind(suite))


def header_digest(header: Signed) -> bytes:
    """SHA-256 of a header's body: how a commit names it."""
    return hashlib.sha256(header.body).digest()
