"""Arithmetic on ciphertexts of the suite `ckks-multikey`: check, add, fingerprint. Knows no key and opens nothing.

All that an aggregator computes with. Residues have shape (blocks, primes, width), uint32: the coefficients of one or
more blocks of one update, `width` of them, N or fewer in a truncated last block. Fingerprints have shape
(repetitions, primes). A residue that is reduced is below its prime.
"""

from collections.abc import Iterable, Sequence
from typing import Any

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


@kernel
def _fingerprint(residues: Words, block_factors: Words, place_factors: Words, primes: Words, out: Words) -> None:
    blocks, count, width = residues.shape
    for b in range(blocks):
        for k in range(count):
            p = np.uint64(primes[k])
            for r in range(out.shape[0]):
                low, high = (
                    np.uint64(0),
                    np.uint64(0),
                )  # halves of products below 2^62: no sum of 2^30 of them overflows
                for j in range(width):
                    product = np.uint64(residues[b, k, j]) * np.uint64(place_factors[r, k, j])
                    low += product & np.uint64(0xFFFFFFFF)
                    high += product >> np.uint64(32)
                inner = ((high % p << np.uint64(32)) + low) % p
                out[r, k] = np.uint32((np.uint64(out[r, k]) + inner * np.uint64(block_factors[r, k, b])) % p)


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


def fingerprint(residues: Words, block_factors: Words, place_factors: Words, primes: Sequence[int]) -> Words:
    """<rho, c> (mod p) for rho = block_factors x place_factors, shape (repetitions, primes).

    Factors are reduced: `block_factors` has shape (repetitions, primes, blocks), `place_factors` (repetitions, primes,
    width). An update that comes in parts has the sum of their fingerprints (`add_fingerprints`), each part with its own
    blocks' factors; a truncated block takes the first `width` place factors. Raises InternalError on other shapes.
    """
    moduli = _moduli(primes, residues, block_factors, place_factors)
    blocks, _, width = residues.shape
    repetitions = len(block_factors)
    if block_factors.shape[2] != blocks or place_factors.shape[::2] != (repetitions, width):
        raise InternalError("fingerprint", "factors do not fit the residues", "Report this.")
    out = np.zeros((repetitions, len(primes)), np.uint32)
    _fingerprint(residues, block_factors, place_factors, moduli, out)
    return out


def add_fingerprints(fingerprints: Iterable[Words], primes: Sequence[int]) -> Words:
    """The sum (mod p) of one or more fingerprints: that of the summed residues."""
    total: Any = sum(fingerprint.astype(np.uint64) for fingerprint in fingerprints)
    reduced: Words = (total % np.array(primes, np.uint64)).astype(np.uint32)
    return reduced


def warm_up() -> None:
    """Compile every kernel of this module or load it, for residues that may be written and for those that may not."""
    residues = np.zeros((1, 1, 1), np.uint32)
    frozen = np.frombuffer(bytes(4), np.uint32).reshape(1, 1, 1)
    for summand in (residues, frozen):
        add_into(residues, summand, [2])
        fingerprint(summand, residues, residues, [2])
