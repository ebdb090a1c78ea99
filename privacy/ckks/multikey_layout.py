"""How an update sealed by `ckks-multikey` lies on the wire, and what an aggregator does with it. Opens nothing.

An update of V values is ceil(V / (N fields)) blocks. A block is one polynomial in coefficient form, N coefficients
wide; the last block is as wide as its values need, ceil(rest / fields), rounded up to a multiple of 32. On the wire a
block is one row for each prime, the largest prime first, and a row is its coefficients' residues, lowest first, 31
bits each, one after another: bit i of a row is bit i mod 8 (the least is bit 0) of its byte i div 8. So 32 residues
are 124 bytes, and nothing is ever filled up.

Blocks travel in chunks of as many whole ones as go into 983,040 bytes (20, 5 and 1 of the sets' blocks), the last
chunk shorter. There is no header, no length and nothing to parse: the plan fixes V and the parameters, so every chunk
has one right size, and any bytes of that size whose residues are below their primes are an update's. Chunks are hashed
as those of `ckks-group` (`layout.chunk_leaf`, `layout.chunks_root`).

In memory residues are uint32 of shape (blocks, primes, N); what a truncated block lacks is 0 there. The loops need
numba, and are imported when the first of them runs: sizes can be told without.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.ckks.multikey_params import MultikeyParams
from privacy.errors import InternalError, ProtocolError

Words = npt.NDArray[np.uint32]

CHUNK_LIMIT = 983_040  # under a gRPC message of 1 MiB with room for its frame
GROUP = 32  # residues in
GROUP_WORDS = 31  # so many words of 32 bits

_WORD_BYTES = 4
_NEXT = "The update was not accepted; the sender must send the stored bytes of one sealed update, chunk by chunk."


@dataclass(frozen=True)
class MultikeyLayout:
    """Sizes of an update of `values` coordinates. Raises InternalError if there are none."""

    values: int
    params: MultikeyParams

    def __post_init__(self) -> None:
        """Raises InternalError unless there are values."""
        if self.values < 1:
            raise InternalError("layout", f"{self.values} values", "Report this.")

    @property
    def blocks(self) -> int:
        """Ciphertexts in one update."""
        return -(-self.values // self.params.values_per_block)

    @property
    def chunk_blocks(self) -> int:
        """Blocks in a chunk, but for the last."""
        return CHUNK_LIMIT // self._bytes_of(self.params.degree)

    @property
    def chunks(self) -> int:
        """Chunks in one update."""
        return -(-self.blocks // self.chunk_blocks)

    @property
    def residue_bytes(self) -> int:
        """All chunks of one update. A sum in memory is 32/31 of that, and what a truncated block lacks."""
        last = self.blocks - 1
        return last * self._bytes_of(self.params.degree) + self._bytes_of(self.width(last))

    @property
    def upload_bytes(self) -> int:
        """What one silo sends, but for the shares, the header and transport."""
        return self.residue_bytes

    def block_values(self, block: int) -> int:
        """How many values a block holds."""
        return min(self.params.values_per_block, self.values - block * self.params.values_per_block)

    def width(self, block: int) -> int:
        """How many coefficients of a block travel: N, or fewer of the last one. A multiple of 32."""
        return -(-self.block_values(block) // (self.params.fields * GROUP)) * GROUP

    def chunk_bytes(self, index: int) -> int:
        """The one right size of chunk `index`. Raises ProtocolError if there is no such chunk."""
        if not 0 <= index < self.chunks:
            raise ProtocolError(f"residue chunk {index}", f"an update of this job has {self.chunks} chunks", _NEXT)
        whole = self.chunk_blocks * self._bytes_of(self.params.degree)
        return min(whole, self.residue_bytes - index * whole)

    def chunk_span(self, index: int) -> slice:
        """The blocks of chunk `index`."""
        return slice(index * self.chunk_blocks, min((index + 1) * self.chunk_blocks, self.blocks))

    def empty_sum(self) -> Words:
        """Zeros to which updates are added, shape (blocks, primes, N)."""
        return np.zeros((self.blocks, len(self.params.primes), self.params.degree), np.uint32)

    @property
    def values_per_block(self) -> int:
        """Grid values in a whole block."""
        return self.params.values_per_block

    @property
    def degree(self) -> int:
        """Residues in a row of a block."""
        return self.params.degree

    @property
    def moduli(self) -> tuple[int, ...]:
        """The moduli of a block's rows."""
        return self.params.primes

    def room(self) -> Words:
        """Where `check` can put the residues of one chunk after the other."""
        return np.empty((self.chunk_blocks, len(self.params.primes), self.params.degree), np.uint32)

    def check(
        self, data: bytes | memoryview, index: int, *, sender: str = "", into: npt.NDArray[Any] | None = None
    ) -> Words:
        """See `check_chunk`."""
        return check_chunk(data, index, self, sender=sender, into=into)

    def add(self, total: npt.NDArray[Any], index: int, residues: npt.NDArray[Any]) -> None:
        """Add the residues of chunk `index` to a sum (`add_into`)."""
        add_into(total[self.chunk_span(index)], residues, self)

    def encode(self, total: npt.NDArray[Any], index: int) -> bytes:
        """See `sum_chunk`."""
        return sum_chunk(total, index, self)

    def _bytes_of(self, width: int) -> int:
        return len(self.params.primes) * width // GROUP * GROUP_WORDS * _WORD_BYTES


def pack_block(residues: Words, width: int) -> bytes:
    """The bytes of one block, of which `residues` has shape (primes, N)."""
    from privacy.ckks.multikey_packing import pack

    words = np.empty(len(residues) * width // GROUP * GROUP_WORDS, np.uint32)
    pack(residues, width, words)
    return words.astype("<u4", copy=False).tobytes()


def check_chunk(
    data: bytes | memoryview,
    index: int,
    layout: MultikeyLayout,
    *,
    sender: str = "",
    into: npt.NDArray[Any] | None = None,
) -> Words:
    """The residues of chunk `index`, shape (its blocks, primes, N), zeros after a truncated block; all are reduced.

    They are new, or, with `into` (`MultikeyLayout.room`), lie there until it is used again: fresh memory costs more
    than all that is done here.
    Raises ProtocolError, naming the sender, for a chunk that is not in the layout, truncated, oversized, or holds a
    residue that is not reduced (an unreduced residue would break the bounds of `add_into`).
    """
    from privacy.ckks.residues import unreduced

    expected = layout.chunk_bytes(index)
    if len(data) != expected:
        kind = "truncated" if len(data) < expected else "oversized"
        why = f"is {kind}: {len(data)} bytes, expected {expected}"
        raise ProtocolError(f"residue chunk {index}", why, _NEXT, sender=sender, step="submit")
    residues = _unpacked(data, index, layout, layout.room() if into is None else into)
    if unreduced(residues, layout.params.primes):
        block, row, place = np.argwhere(residues >= np.array(layout.params.primes)[:, None])[0]
        why = f"residue {place} in row {row} of its block {block} is not reduced"
        raise ProtocolError(f"residue chunk {index}", why, _NEXT, sender=sender, step="submit")
    return residues


def _unpacked(data: bytes | memoryview, index: int, layout: MultikeyLayout, room: npt.NDArray[Any]) -> Words:
    from privacy.ckks.multikey_packing import unpack

    words = np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
    span, start = layout.chunk_span(index), 0
    residues = room[: span.stop - span.start]
    for rows, block in zip(residues, range(span.start, span.stop), strict=True):
        width = layout.width(block)
        end = start + len(rows) * width // GROUP * GROUP_WORDS
        unpack(words[start:end], width, rows)
        rows[:, width:] = 0
        start = end
    return residues


def add_into(total: Words, residues: Words, layout: MultikeyLayout) -> None:
    """total += residues, each modulo its prime, in place; of equal shapes, and reduced before and after.

    Raises InternalError, and changes nothing, on shapes that differ and residues that are not reduced.
    """
    from privacy.ckks import residues as arithmetic

    arithmetic.add_into(total, residues, layout.params.primes)


def sum_chunk(total: Words, index: int, layout: MultikeyLayout) -> bytes:
    """Chunk `index` of a sum, as it goes on the wire."""
    span = layout.chunk_span(index)
    return b"".join(pack_block(total[block], layout.width(block)) for block in range(span.start, span.stop))


def warm_up(params: MultikeyParams) -> None:
    """Compile every kernel that an aggregator runs or load it, so that no round waits for it later."""
    layout = MultikeyLayout(1, params)
    total = layout.empty_sum()
    add_into(total, check_chunk(sum_chunk(total, 0, layout), 0, layout), layout)
