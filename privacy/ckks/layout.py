"""How a sealed update lies on the wire and what an aggregator does with it: check, add, hash. Opens nothing.

An update of V values is ceil(V / 8192) blocks. Block k is 4096 residues modulo p (the c0 of one CKKS ciphertext, in
NTT order), 8 bytes each, little-endian, and a 64-byte seed (of its c1). Residues travel in chunks of 30 whole blocks,
the last chunk shorter; the seeds travel apart, one after another. There is no header, no length and nothing to parse:
the plan fixes V, so every chunk has one right size. Needs numpy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.ckks.params import BLOCK_BYTES, DEGREE, PRIME, SEED_BYTES, VALUES_PER_BLOCK
from privacy.errors import InternalError, ProtocolError
from privacy.ledger.merkle import leaf_hash, root

Residues = npt.NDArray[np.uint64]

CHUNK_BLOCKS = 30
CHUNK_BYTES = CHUNK_BLOCKS * BLOCK_BYTES  # 983,040: under a gRPC message of 1 MiB with room for its frame

_P = np.uint64(PRIME)
_NEXT = "The update was not accepted; the sender must send the stored bytes of one sealed update, chunk by chunk."


@dataclass(frozen=True)
class Layout:
    """Sizes of an update of `values` coordinates. Raises InternalError if there are none."""

    values: int

    def __post_init__(self) -> None:
        """Raises InternalError unless there are values."""
        if self.values < 1:
            raise InternalError("layout", f"{self.values} values", "Report this.")

    @property
    def blocks(self) -> int:
        """Ciphertexts in one update."""
        return -(-self.values // VALUES_PER_BLOCK)

    @property
    def chunks(self) -> int:
        """Residue chunks in one update."""
        return -(-self.blocks // CHUNK_BLOCKS)

    @property
    def residue_bytes(self) -> int:
        """All residues of one update; also the size of a sum in memory."""
        return self.blocks * BLOCK_BYTES

    @property
    def seed_bytes(self) -> int:
        """All seeds of one update."""
        return self.blocks * SEED_BYTES

    @property
    def upload_bytes(self) -> int:
        """Residues and seeds: what one silo sends, but for the header and transport."""
        return self.residue_bytes + self.seed_bytes

    def chunk_bytes(self, index: int) -> int:
        """The one right size of chunk `index`. Raises ProtocolError if there is no such chunk."""
        if not 0 <= index < self.chunks:
            raise ProtocolError(f"residue chunk {index}", f"an update of this job has {self.chunks} chunks", _NEXT)
        return min(CHUNK_BYTES, self.residue_bytes - index * CHUNK_BYTES)

    def chunk_span(self, index: int) -> slice:
        """Where chunk `index` lies among the residues of an update (elements, not bytes)."""
        start = index * CHUNK_BLOCKS * DEGREE
        return slice(start, start + self.chunk_bytes(index) // 8)

    @property
    def values_per_block(self) -> int:
        """Grid values in a whole block."""
        return VALUES_PER_BLOCK

    @property
    def degree(self) -> int:
        """Residues in a block."""
        return DEGREE

    @property
    def moduli(self) -> tuple[int, ...]:
        """Of the residues."""
        return (PRIME,)

    def room(self) -> None:
        """`check` needs none: it returns views."""

    def check(
        self,
        data: bytes | memoryview,
        index: int,
        *,
        sender: str = "",
        into: npt.NDArray[Any] | None = None,  # noqa: ARG002 - the other suite's
    ) -> Residues:
        """See `check_chunk`."""
        return check_chunk(data, index, self, sender=sender)

    def add(self, total: npt.NDArray[Any], index: int, residues: npt.NDArray[Any]) -> None:
        """Add the residues of chunk `index` to a sum (`add_into`)."""
        add_into(total[self.chunk_span(index)], residues)

    def encode(self, total: npt.NDArray[Any], index: int) -> bytes:
        """See `sum_chunk`."""
        return sum_chunk(total, index, self)

    def empty_sum(self) -> Residues:
        """Zeros to which updates are added, shape (blocks * 4096,)."""
        return np.zeros(self.blocks * DEGREE, np.uint64)


def check_chunk(data: bytes | memoryview, index: int, layout: Layout, *, sender: str = "") -> Residues:
    """The residues of chunk `index`, a read-only view of `data`; all are below p.

    Raises ProtocolError, naming the sender, for a chunk that is not in the layout, truncated, oversized, or holds a
    residue that is not reduced (an unreduced residue would break the bounds of `add_into`).
    """
    expected = layout.chunk_bytes(index)
    if len(data) != expected:
        kind = "truncated" if len(data) < expected else "oversized"
        why = f"is {kind}: {len(data)} bytes, expected {expected}"
        raise ProtocolError(f"residue chunk {index}", why, _NEXT, sender=sender, step="submit")
    residues = np.frombuffer(data, "<u8").astype(np.uint64, copy=False)
    if residues.max() >= _P:
        why = f"residue {int((residues >= _P).argmax())} is not reduced modulo p"
        raise ProtocolError(f"residue chunk {index}", why, _NEXT, sender=sender, step="submit")
    return residues


def check_seeds(data: bytes, layout: Layout, *, sender: str = "") -> None:
    """Raises ProtocolError, naming the sender, unless `data` is as long as the seeds of one update."""
    if len(data) != layout.seed_bytes:
        kind = "truncated" if len(data) < layout.seed_bytes else "oversized"
        why = f"are {kind}: {len(data)} bytes, expected {layout.seed_bytes}"
        raise ProtocolError("seeds", why, _NEXT, sender=sender, step="submit")


def _rows(total: Residues, residues: Residues) -> tuple[Residues, Residues]:
    whole = total.shape == residues.shape and total.size % DEGREE == 0
    if not (whole and total.dtype == residues.dtype == np.uint64 and total.flags.c_contiguous):
        raise InternalError("residue sum", "shapes differ", "Report this; the sum was not changed.")
    return total.reshape(-1, DEGREE), residues.reshape(-1, DEGREE)


def add_into(total: Residues, residues: Residues) -> None:
    """total += residues (mod p), in place; both reduced before and after. Shapes: whole blocks, equal.

    Block by block, so that the work stays in the processor's cache: s - p wraps round to more than s exactly when
    s < p, hence min(s, s - p) is the reduced sum.
    """
    spare = np.empty(DEGREE, np.uint64)
    for sum_row, row in zip(*_rows(total, residues), strict=True):
        np.add(sum_row, row, out=sum_row)
        np.subtract(sum_row, _P, out=spare)
        np.minimum(sum_row, spare, out=sum_row)


def sum_chunk(total: Residues, index: int, layout: Layout) -> bytes:
    """Chunk `index` of a sum, as it goes on the wire."""
    return total[layout.chunk_span(index)].astype("<u8", copy=False).tobytes()


def chunk_leaf(data: bytes) -> bytes:
    """The RFC 6962 leaf hash of one residue chunk (section 2.1), 32 bytes."""
    return leaf_hash(data)


def chunks_root(leaves: Sequence[bytes]) -> bytes:
    """The RFC 6962 tree hash over chunk leaves in order: a header's `residues_root`, a commit's `sum_root`.

    Raises InternalError on no leaves: every update has a chunk.
    """
    if not leaves:
        raise InternalError("chunk tree", "there are no chunks", "Report this.")
    return root(leaves)
