"""Messages of FederationService that silos witness one another's ledgers with: checkpoints, proofs, cosignatures."""

from typing import Annotated

from pydantic import Field

from cloister.v1 import federation_pb2
from cloister.wire.base import MAX_COHORT, Digest, Pem, WireMessage
from privacy.ledger.checkpoint import MAX_NOTE_BYTES

MOST_PROOFS = MAX_COHORT + 8  # in one message; the next one brings the rest
MOST_LOGS = 1000  # that one witness has seen, or witnesses of one log
LogSize = Annotated[int, Field(ge=0, lt=1 << 53)]
LogName = Annotated[str, Field(min_length=1, max_length=200)]


class ConsistencyProof(WireMessage):
    """That a checkpoint continues the same log of so many entries."""

    proto = federation_pb2.ConsistencyProof
    old_size: LogSize
    hashes: Annotated[tuple[Digest, ...], Field(max_length=64)]


class SeenLog(WireMessage):
    """The largest size of a log that a witness has seen."""

    proto = federation_pb2.SeenLog
    log: LogName
    size: LogSize


class CosignedLog(WireMessage):
    """A witness' signature line for a log's newest checkpoint."""

    proto = federation_pb2.CosignedLog
    log: LogName
    line: Annotated[str, Field(min_length=1, max_length=400)]


class ShownLog(WireMessage):
    """Another log's newest checkpoint, its owner's identity, and proofs."""

    proto = federation_pb2.ShownLog
    checkpoint: Annotated[bytes, Field(min_length=1, max_length=MAX_NOTE_BYTES)]
    identity_pem: Pem
    proofs: Annotated[tuple[ConsistencyProof, ...], Field(max_length=MOST_PROOFS)]


class WitnessKey(WireMessage):
    """The identity certificate of a witness whose cosignature is shown."""

    proto = federation_pb2.WitnessKey
    witness: LogName
    identity_pem: Pem


class ExchangeCheckpointsRequest(WireMessage):
    """The caller's newest checkpoint, and what it says as a witness of others'."""

    proto = federation_pb2.ExchangeCheckpointsRequest
    checkpoint: Annotated[bytes, Field(max_length=MAX_NOTE_BYTES)]
    proofs: Annotated[tuple[ConsistencyProof, ...], Field(max_length=MOST_PROOFS)]
    seen: Annotated[tuple[SeenLog, ...], Field(max_length=MOST_LOGS)]
    cosigned: Annotated[tuple[CosignedLog, ...], Field(max_length=MOST_PROOFS)]
    since: Annotated[int, Field(ge=0, lt=1 << 40)]


class ExchangedCheckpoints(WireMessage):
    """What is known of the caller's log, and what there is to witness."""

    proto = federation_pb2.ExchangeCheckpointsResponse
    newest: Annotated[bytes, Field(max_length=MAX_NOTE_BYTES)]
    wanted: Annotated[tuple[LogSize, ...], Field(max_length=MOST_PROOFS)]
    shown: Annotated[tuple[ShownLog, ...], Field(max_length=MOST_PROOFS)]
    witnesses: Annotated[tuple[WitnessKey, ...], Field(max_length=MOST_LOGS)]
