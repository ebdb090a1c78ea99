"""The signed header of an update: what binds one silo's ciphertext to one round (round-protocol.md, step 1)."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from privacy.plan import Hex32
from privacy.statement import RoundStatement, Signed


class UpdateHeader(RoundStatement):
    """Everything about an update but its bytes; the digests stand for those.

    `residues_root` is the RFC 6962 tree hash over the residue chunks in order; `seeds_sha256` covers the seeds of all
    blocks; `key_commitment` says under which cohort key the silo sealed, so that a dealer who hands out different
    keys is found before anything is summed.
    """

    type: Literal["cloister/v1/update"] = "cloister/v1/update"
    values: Annotated[int, Field(gt=0)]
    key_commitment: Hex32
    residues_root: Hex32
    seeds_sha256: Hex32


def header_digest(header: Signed) -> bytes:
    """SHA-256 of a header's body: how a commit names it."""
    return hashlib.sha256(header.body).digest()
