"""The suite `ckks-multikey`: seal an update under a one-time key, and open a sum with the sum of the keys.

Block k of a silo's update travels as c = e - a_k s + Delta m: a_k is everybody's (uniform.py), m holds the block's grid
values (multikey_fields.py), s is the silo's key of this round, e fresh noise. What the members of U sent adds up to a
ciphertext that the sum S of their keys opens; S comes from released sums of shares (shares.py), and nothing that is
ever released opens less than the whole sum. Source: round-protocol.md, "Suite ckks-multikey", steps 1 and 7.

The pad e - a_k s does not depend on the update and is made while training runs. It hides one block once: two blocks
under one pad give away their difference, two pads of one key and a_k their noise. Hence a key makes its pads once, a
key that was stored makes none, and a pad turns into the ciphertext it is used for.

How far keys, noise and values are handled in constant time: see ring.py. What `open_sum` gives is nothing that a silo
keeps from the others of its round, and is not handled so. Kernels are compiled when first called: a program calls
`warm_up` at start.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Generic, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from privacy.canonical import DIGEST_BYTES
from privacy.ckks import multikey_layout
from privacy.ckks.multikey_fields import add_fields, take_fields
from privacy.ckks.multikey_layout import MultikeyLayout, Words, check_chunk, pack_block
from privacy.ckks.multikey_params import LEAST_PARTICIPANTS, SCALE, SCALE_BITS, VARIANCE, MultikeyParams
from privacy.ckks.ring import Multiplier, ring_of
from privacy.ckks.sampling import SecureBits, draw_gaussian, gaussian_thresholds
from privacy.ckks.shares import share
from privacy.ckks.uniform import common_polynomial
from privacy.errors import ConfigError, InternalError, ProtocolError, VerificationError

Grid = npt.NDArray[np.uint16]
Secret = TypeVar("Secret")

_UNSENT = "Report this; nothing is sent."
_NEXT = "The round must not be applied; compare the commit with the other silos."


class _Once(Generic[Secret]):
    """A secret that is taken once, by the process that made it, and not copied."""

    def __init__(self, name: str, secret: Secret) -> None:
        self._name = name
        self._held = [secret]
        self._process = os.getpid()

    def take(self) -> Secret:
        if os.getpid() == self._process:
            with suppress(IndexError):
                return self._held.pop()  # of two threads one gets it
        raise InternalError(self._name, "was used before, or is a parent process's", _UNSENT)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise InternalError(self._name, "is not to be copied", _UNSENT)


class Pad:
    """e - a_k s for one block: as secret as what it will hide, and used up when it has hidden that."""

    def __init__(self, layout: MultikeyLayout, block: int, mask: Words) -> None:
        self.layout = layout
        self.block = block
        self._mask = _Once(f"pad of block {block}", mask)

    def hide(self, fields: npt.NDArray[np.uint16]) -> Words:
        """The ciphertext of fields of shape (fields, width), shape (primes, N): what was the pad. Once, ever."""
        params = self.layout.params
        residues = self._mask.take()
        add_fields(fields, _weights(params), np.array(params.primes, np.uint32), residues)
        return residues


class OneTimeKey:
    """A silo's secret s for one round: N coefficients, discrete Gaussian with variance 81/2. Has no useful repr.

    Python cannot erase it from memory; drop it, and erase the vault's copy, when it was released or the round given up.
    """

    def __init__(self, coefficients: npt.NDArray[np.int32]) -> None:
        self._coefficients = coefficients
        self._unused = _Once("one-time key", coefficients)

    @classmethod
    def generate(cls, params: MultikeyParams, bits: SecureBits) -> "OneTimeKey":
        """A fresh key. Takes its samples from `bits`."""
        return cls(draw_gaussian(VARIANCE, params.degree, bits))

    @classmethod
    def from_bytes(cls, data: bytes, params: MultikeyParams) -> "OneTimeKey":
        """Read what `to_bytes` wrote. The key can be dealt, but makes no pads: it may have made them before.

        Raises ConfigError unless `data` is exactly one encoded key.
        """
        coefficients = np.frombuffer(data, np.int8).astype(np.int32)
        largest = len(gaussian_thresholds(VARIANCE)[0])
        if len(data) != params.degree or coefficients.max() > largest or coefficients.min() < -largest:
            why = f"the stored one is not {params.degree} coefficients from -{largest} to {largest}"
            raise ConfigError("one-time key", why, "This silo cannot go on with the round; the others can without it.")
        key = cls(coefficients)
        key._unused.take()
        return key

    def to_bytes(self) -> bytes:
        """N bytes, a coefficient each, two's complement: for the vault only."""
        return self._coefficients.astype(np.int8).tobytes()

    def deal(self, threshold: int, points: Sequence[int], bits: SecureBits) -> npt.NDArray[np.uint16]:
        """Shares of it, one row for each point, as `shares.share` makes them with randomness from `bits`."""
        return share(self._coefficients, threshold, points, bits.take)

    def pads(self, ctx: bytes, layout: MultikeyLayout, bits: SecureBits) -> Iterator[Pad]:
        """The pads of an update in the round whose digest `ctx` is, block after block; noise comes from `bits`.

        Each is 4 bytes for 31 bits of ciphertext. Raises InternalError when called for a second time, for a key that
        was stored, and on a digest or layout that does not fit.
        """
        if len(ctx) != DIGEST_BYTES:
            raise InternalError("round digest", f"has {len(ctx)} bytes", _UNSENT)
        multiplier = ring_of(layout.params.degree).multiplier(self._unused.take())
        return _pads(multiplier, ctx, layout, bits)


def _pads(key: Multiplier, ctx: bytes, layout: MultikeyLayout, bits: SecureBits) -> Iterator[Pad]:
    ring = ring_of(layout.params.degree)
    for block in range(layout.blocks):
        uniform = common_polynomial(ctx, block, ring.degree, ring.primes)
        yield Pad(layout, block, ring.mask(uniform, key, draw_gaussian(VARIANCE, ring.degree, bits)))


@cache
def _weights(params: MultikeyParams) -> Words:
    """Delta 2^(f i) modulo each prime, shape (primes, fields)."""
    exponents = range(SCALE_BITS, SCALE_BITS + params.fields * params.field_bits, params.field_bits)
    return np.array([[pow(2, exponent, prime) for exponent in exponents] for prime in params.primes], np.uint32)


def seal(pads: Iterable[Pad], layout: MultikeyLayout, grid_blocks: Iterable[Grid]) -> Iterator[bytes]:
    """The chunks of an update: its grid values, `values_per_block` in each block but the last, under its pads.

    Holds one chunk. Store what this yields, and resend the stored bytes: the pads are used up. Raises InternalError on
    blocks and pads that are missing, surplus, used, out of order or not of this layout, and on values that do not fit
    the plan's bits.
    """
    pads, grid_blocks = iter(pads), iter(grid_blocks)
    for index in range(layout.chunks):
        span = layout.chunk_span(index)
        yield b"".join(
            _seal_block(layout, block, next(pads, None), next(grid_blocks, None))
            for block in range(span.start, span.stop)
        )
    if next(pads, None) is not None or next(grid_blocks, None) is not None:
        raise InternalError("update", f"has more than its {layout.blocks} blocks", _UNSENT)


def _seal_block(layout: MultikeyLayout, block: int, pad: Pad | None, grid: Grid | None) -> bytes:
    if pad is None or (pad.layout, pad.block) != (layout, block):
        raise InternalError(f"pad of block {block}", "is missing, or is another's", _UNSENT)
    params, width = layout.params, layout.width(block)
    if grid is None or grid.shape != (layout.block_values(block),) or grid.max() > params.largest_sum(1):
        raise InternalError(f"grid block {block}", "is missing, or is not its values of the plan's bits", _UNSENT)
    fields = np.zeros(params.fields * width, np.uint16)
    fields[: len(grid)] = grid
    return pack_block(pad.hide(fields.reshape(params.fields, width)), width)


def open_sum(
    total_key: npt.NDArray[np.int32], ctx: bytes, layout: MultikeyLayout, members: int, chunks: Iterable[bytes]
) -> Iterator[npt.NDArray[np.uint32]]:
    """The exact sums of the members' grid values, block by block in order, as many as were sealed in each.

    `total_key` is S, shape (N,), `ctx` the round's digest, `chunks` the sum's chunks in order, already compared with
    the signed commit. Raises at once: InternalError on a digest or key that does not fit, VerificationError on too few
    or too many members and on a key sum beyond their bound. Raises while it is iterated: ProtocolError on chunks that
    are missing, surplus, or wrong (`check_chunk`); VerificationError on a sum that does not open to integers in range
    with noise in bounds. Use nothing of it unless the iteration ended.

    What it does not find: a sum to which the aggregator added an encoding of its own (the fingerprint step is for
    that).
    """
    if len(ctx) != DIGEST_BYTES:
        raise InternalError("round digest", f"has {len(ctx)} bytes", "Report this; nothing was opened.")
    params = layout.params
    if not LEAST_PARTICIPANTS <= members <= params.participants:
        why = f"is of {members} updates, the round allows {LEAST_PARTICIPANTS} to {params.participants}"
        raise VerificationError("sum", why, _NEXT)
    multiplier = ring_of(params.degree).multiplier(total_key)
    bound = params.bound(members)
    if total_key.max() > bound or total_key.min() < -bound:
        raise VerificationError("sum of keys", f"is not of {members} keys: a coefficient is beyond +-{bound}", _NEXT)
    return _open_blocks(multiplier, ctx, layout, members, chunks)


def _sum_blocks(layout: MultikeyLayout, chunks: Iterable[bytes]) -> Iterator[Words]:
    count = 0
    for index, chunk in enumerate(chunks):
        count += 1
        yield from check_chunk(chunk, index, layout)
    if count != layout.chunks:
        raise ProtocolError("sum", f"has {count} chunks, expected {layout.chunks}", "Fetch the sum again.")


def _open_blocks(
    key: Multiplier, ctx: bytes, layout: MultikeyLayout, members: int, chunks: Iterable[bytes]
) -> Iterator[npt.NDArray[np.uint32]]:
    params, ring = layout.params, ring_of(layout.params.degree)
    half = np.full(ring.shape, SCALE // 2, np.uint32)
    for block, residues in enumerate(_sum_blocks(layout, chunks)):
        opened = ring.product(common_polynomial(ctx, block, ring.degree, ring.primes), key)
        ring.add(opened, residues)
        ring.add(opened, half)  # noise + Delta / 2 is in [0, Delta), below the fields
        fields = np.empty((params.fields, layout.width(block)), np.uint32)
        noise, above = take_fields(ring.limbs(opened), SCALE_BITS, params.field_bits, fields)
        if noise > params.bound(members):
            raise VerificationError(
                "opened sum", f"has more noise than {members} have: wrong key, or altered sum", _NEXT
            )
        if above or fields.max() > params.largest_sum(members):
            raise VerificationError("opened sum", f"holds values no {members} updates add up to", _NEXT)
        sums, used = fields.ravel(), layout.block_values(block)
        if sums[used:].any():
            raise VerificationError("opened sum", "holds something after its last value", _NEXT)
        yield sums[:used]


def warm_up(params: MultikeyParams) -> None:
    """Make the ring's tables and compile every kernel or load it, so that no round waits for it later."""
    multikey_layout.warm_up(params)
    layout, bits, ctx = MultikeyLayout(1, params), SecureBits(), bytes(DIGEST_BYTES)
    key = OneTimeKey.generate(params, bits)
    sealed = seal(key.pads(ctx, layout, bits), layout, [np.zeros(1, np.uint16)])
    list(open_sum(key._coefficients, ctx, layout, LEAST_PARTICIPANTS, sealed))  # noqa: SLF001
