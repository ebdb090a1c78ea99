"""Float vector <-> integers on a fixed grid (round-protocol.md, "Grid").

A coordinate x is clipped to [-R, R] and becomes floor((x/R + 1) * (2^b - 1)/2 + u), u uniform in [0, 1): an integer in
[0, 2^b - 1] whose expectation is the clipped coordinate (stochastic rounding). R and b are in the plan and do not
depend on data. u comes from AES-256-CTR under a key that is fresh for every update.

Everything is float64 arithmetic of numpy's elementary operations, which IEEE 754 fixes to the bit: all silos compute
the same mean from the same sum.
"""

import os
from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.errors import ConfigError, InternalError

BLOCK_VALUES = 8192
WORD_BYTES = 4

_REPORT = "Report this; the update is not sent."


def grid_top(bits: int) -> int:
    """2^b - 1, the largest grid value. Raises InternalError unless 2 <= bits <= 16."""
    if not 2 <= bits <= 16:
        raise InternalError("grid bits", f"{bits} is outside 2-16", _REPORT)
    return (1 << bits) - 1


def grid_step(update_range: float, bits: int) -> float:
    """The distance of neighbouring grid values in units of the update: 2R / (2^b - 1)."""
    return 2.0 * update_range / grid_top(bits)


def round_to_grid(
    vector: npt.NDArray[np.float32], ranges: npt.NDArray[np.float32], bits: int, words: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint16]:
    """Stochastic rounding with given randomness: one 32-bit word per coordinate, all of one shape.

    With uniform words the expectation of the result, mapped back, is the clipped coordinate to within 2^-32 grid
    steps. Raises ConfigError on values that are not finite, InternalError on shapes that differ or a range <= 0.
    """
    if not vector.shape == ranges.shape == words.shape or vector.ndim != 1:
        raise InternalError("quantiser", "vector, ranges and words differ in shape", _REPORT)
    if not np.isfinite(vector).all():
        raise ConfigError(
            "update",
            "holds values that are not finite, so training diverged",
            "Lower the learning rates in the job file and submit a new job; this update is not sent.",
        )
    if not (np.isfinite(ranges).all() and (ranges > 0).all()):
        raise InternalError("quantiser", "a range is not positive and finite", _REPORT)
    position = np.divide(vector, ranges, dtype=np.float64)
    np.clip(position, -1.0, 1.0, out=position)
    position += 1.0
    position *= grid_top(bits) / 2
    position += words * 2.0**-32
    return position.astype(np.uint16)  # truncation is the floor: position lies in [0, 2^b)


class _Keystream:
    """AES-256-CTR under a fresh key of the operating system, as uniform 32-bit words."""

    def __init__(self) -> None:
        # A key is used for one update only, so a fixed initial counter never repeats a keystream block.
        self._encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self._encryptor.update(bytes(WORD_BYTES * count)), np.uint32)


def quantise_blocks(
    vector: npt.NDArray[np.float32],
    ranges: npt.NDArray[np.float32],
    bits: int,
    block_values: int = BLOCK_VALUES,
) -> Iterator[npt.NDArray[np.uint16]]:
    """The grid values of an update, block by block in order; the last block may be shorter.

    Two iterations over one vector give different roundings: store what you sealed, do not make it again. Raises as
    `round_to_grid`, at the block concerned.
    """
    if vector.shape != ranges.shape:
        raise InternalError("quantiser", "vector and ranges differ in shape", _REPORT)
    keystream = _Keystream()
    for start in range(0, len(vector), block_values):
        part = slice(start, start + block_values)
        yield round_to_grid(vector[part], ranges[part], bits, keystream.words(len(vector[part])))


def blocks_on_grid(
    update: npt.NDArray[np.float32] | npt.NDArray[np.uint16],
    ranges: npt.NDArray[np.float32],
    bits: int,
    block_values: int = BLOCK_VALUES,
) -> Iterator[npt.NDArray[np.uint16]]:
    """As `quantise_blocks`; an update that is on the grid already, as with shared noise, is only cut into blocks.

    Raises InternalError if such an update leaves the grid.
    """
    if update.dtype == np.float32:
        yield from quantise_blocks(cast("npt.NDArray[np.float32]", update), ranges, bits, block_values)
        return
    if update.dtype != np.uint16 or update.shape != ranges.shape or (update > grid_top(bits)).any():
        raise InternalError("update", f"is of {update.dtype} or not on a grid of {bits} bits", _REPORT)
    for start in range(0, len(update), block_values):
        yield cast("npt.NDArray[np.uint16]", update[start : start + block_values])


def quantise(
    vector: npt.NDArray[np.float32] | npt.NDArray[np.uint16], ranges: npt.NDArray[np.float32], bits: int
) -> npt.NDArray[np.uint16]:
    """All grid values of an update at once (see `blocks_on_grid`)."""
    grid = np.empty(vector.shape, np.uint16)
    start = 0
    for block in blocks_on_grid(vector, ranges, bits):
        grid[start : start + len(block)] = block
        start += len(block)
    return grid


def mean_from_sum(
    grid_sum: npt.NDArray[np.uint32], ranges: npt.NDArray[np.float32], bits: int, total_weight: int
) -> npt.NDArray[np.float64]:
    """The weighted mean of the clipped updates, from the sum of their grid values: R * (2 s / (w (2^b - 1)) - 1).

    The same bits at every silo. Raises InternalError if a sum exceeds w (2^b - 1) or the shapes differ.
    """
    top = total_weight * grid_top(bits)
    if total_weight < 1 or grid_sum.shape != ranges.shape or (grid_sum > top).any():
        raise InternalError("grid sum", f"does not fit {total_weight} summands of {bits} bits", _REPORT)
    mean = grid_sum.astype(np.float64)
    mean *= 2.0
    mean /= top
    mean -= 1.0
    mean *= ranges
    return mean
