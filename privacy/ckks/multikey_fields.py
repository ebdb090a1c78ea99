"""Grid values <-> the coefficients of a block: fields side by side above the noise. The loops of `multikey.py`.

A block is `width` coefficients wide and holds field i of coefficient j at place i * width + j of its values. In the
sealing direction nothing branches on a value, divides by it or indexes with it.
"""

import numpy as np
import numpy.typing as npt

from privacy.ckks.compiled import kernel

Words = npt.NDArray[np.uint32]

_TILE = 1024  # coefficients whose sums of products stay in the processor's nearest cache


@kernel
def add_fields(fields: npt.NDArray[np.uint16], weights: Words, primes: Words, residues: Words) -> None:
    """residues[k, j] += sum over i of weights[k, i] fields[i, j] (mod p_k), j < width; shapes (fields, width), (K, N).

    Weights are reduced, and there are fewer than 2^6 fields below 2^16: sums t are below 2^53. With
    r = floor(2^61 / p), floor((floor(t / 2^21) r) / 2^40) is t / p less at most 2^-7 before it is rounded down, hence
    floor(t / p) or one less, and t less so many p lies in [0, 2p).
    """
    count, width = fields.shape
    sums = np.empty(_TILE, np.uint64)
    for k in range(residues.shape[0]):
        p, row = primes[k], residues[k]
        reciprocal = np.uint64(1 << 61) // np.uint64(p)
        for start in range(0, width, _TILE):
            tile = min(_TILE, width - start)
            sums[:] = 0
            for i in range(count):
                weight, field = np.uint64(weights[k, i]), fields[i, start : start + tile]
                for j in range(tile):
                    sums[j] += weight * np.uint64(field[j])
            for j in range(tile):
                multiple = ((sums[j] >> np.uint64(21)) * reciprocal) >> np.uint64(40)
                summand = np.uint32(np.uint32(sums[j]) - np.uint32(np.uint32(multiple) * p))
                summand = min(summand, np.uint32(summand - p))
                total = np.uint32(row[start + j] + summand)
                row[start + j] = min(total, np.uint32(total - p))


@kernel
def take_fields(limbs: Words, scale_bits: int, field_bits: int, fields: Words) -> tuple[int, int]:
    """fields[i, j] = field i of coefficient j, given as 32-bit limbs, least first; shapes (fields, width), (K, N).

    Returns the greatest distance of the bits below the fields from half of 2^scale_bits, and the or of the bits above
    the fields: 0 if all that is there is fields. A field has up to 32 bits, and no bit is above 31 K.
    """
    last, (count, width) = limbs.shape[0] - 1, fields.shape
    below, half = np.uint32((1 << scale_bits) - 1), np.int64(1 << (scale_bits - 1))
    farthest = np.int64(0)
    for j in range(width):
        farthest = max(farthest, abs(np.int64(limbs[0, j] & below) - half))
    mask = np.uint64((1 << field_bits) - 1)
    for i in range(count):
        bit = scale_bits + i * field_bits
        start, low, high = np.uint64(bit % 32), limbs[bit // 32], limbs[min(bit // 32 + 1, last)]
        for j in range(width):
            fields[i, j] = np.uint32(((np.uint64(low[j]) | np.uint64(high[j]) << np.uint64(32)) >> start) & mask)
    bit = scale_bits + count * field_bits
    above = np.uint32(0)
    for k in range(bit // 32, last + 1):
        shift = np.uint32(bit % 32 if k == bit // 32 else 0)
        for j in range(width):
            above |= limbs[k, j] >> shift
    return int(farthest), int(above)
