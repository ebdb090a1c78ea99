"""Arithmetic on ciphertexts of the suite `ckks-multikey`: check and add. Knows no key and opens nothing.

All that an aggregator computes with, but for fingerprints. Residues have shape (blocks, primes, width), uint32: `width`
coefficients of one or more blocks of one update. A residue that is reduced is below its prime.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from privacy.ckks.compiled import kernel
from privacy.errors import InternalError

Words = npt.NDArray[np.uint32]


@kernel
def _unreduced(residues: Words, primes: Words) -> int:
    blocks, count, width = residues.shape
    total = 0
    for b in range(blocks):
        for k in range(count):
            p = primes[k]
            for j in range(width):
                total += residues[b, k, j] >= p
    return total


@kernel
def _add(total: Words, residues: Words, primes: Words) -> None:
    blocks, count, width = residues.shape
    for b in range(blocks):
        for k in range(count):
            p = primes[k]
            for j in range(width):
                value = np.uint32(total[b, k, j] + residues[b, k, j])
                total[b, k, j] = min(value, np.uint32(value - p))


def _moduli(primes: Sequence[int], *arrays: Words) -> Words:
    for array in arrays:
        if array.dtype != np.uint32 or array.ndim != 3 or array.shape[1] != len(primes) or not array.flags.c_contiguous:
            raise InternalError("residues", f"are {array.dtype} of shape {array.shape}", "Report this.")
    return np.array(primes, np.uint32)


def unreduced(residues: Words, primes: Sequence[int]) -> int:
    """How many residues are not reduced: anything but 0 and the sender broke the protocol."""
    return _unreduced(residues, _moduli(primes, residues))


def add_into(total: Words, residues: Words, primes: Sequence[int]) -> None:
    """total += residues (mod p), in place; `total` holds a sum this function made, or zeros.

    Raises InternalError, and changes nothing, on shapes that differ and on residues that are not reduced: they must
    have been refused when they came in.
    """
    moduli = _moduli(primes, total, residues)
    if total.shape != residues.shape or _unreduced(residues, moduli):
        raise InternalError("residue sum", "shapes differ or a residue is not reduced", "Report this.")
    _add(total, residues, moduli)
