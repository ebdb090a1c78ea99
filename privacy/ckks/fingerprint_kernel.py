"""The loop of the fingerprints, compiled by numba at its first call and cached beside this file."""

from typing import Any

import numpy as np

from privacy.ckks.compiled import kernel

_LOW = np.uint64((1 << 32) - 1)
_HALF = np.uint64((1 << 30) - 1)
_30, _32 = np.uint64(30), np.uint64(32)


@kernel
def inner_products(residues: Any, positions: Any, sums: Any) -> None:  # noqa: ANN401 - numba's arrays
    """sums[b, k, r] = four sums over j of v_r[j] * c[b, k, j]: lower and upper 32 bits, for either half of c.

    Shapes: residues (blocks, lanes, degree), uint32 or uint64 below 2^60; positions (repetitions, degree), below 2^30;
    sums (blocks, lanes, repetitions, 4), uint64. A product of halves has 60 bits, a sum of 2^14 words 46: none wraps.
    """
    for b in range(residues.shape[0]):
        for k in range(residues.shape[1]):
            row = residues[b, k]
            for r in range(positions.shape[0]):
                entries = positions[r]
                a = c = d = e = np.uint64(0)
                for j in range(row.shape[0]):
                    value, entry = np.uint64(row[j]), np.uint64(entries[j])
                    low, high = (value & _HALF) * entry, (value >> _30) * entry
                    a += low & _LOW
                    c += low >> _32
                    d += high & _LOW
                    e += high >> _32
                sums[b, k, r, 0], sums[b, k, r, 1], sums[b, k, r, 2], sums[b, k, r, 3] = a, c, d, e


@kernel
def narrow_inner_products(residues: Any, positions: Any, sums: Any) -> None:  # noqa: ANN401 - numba's arrays
    """The same of residues below 2^31, uint32, in one piece each: sums[b, k, r] = the two sums of the lower half.

    A product has 61 bits. What `inner_products` writes for the upper half is not touched.
    """
    for b in range(residues.shape[0]):
        for k in range(residues.shape[1]):
            row = residues[b, k]
            for r in range(positions.shape[0]):
                entries = positions[r]
                a = c = np.uint64(0)
                for j in range(row.shape[0]):
                    product = np.uint64(row[j]) * np.uint64(entries[j])
                    a += product & _LOW
                    c += product >> _32
                sums[b, k, r, 0], sums[b, k, r, 1] = a, c
