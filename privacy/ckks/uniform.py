"""Uniform residues that everybody expands from public seeds, the same bytes everywhere (round-protocol.md).

The residues modulo p of a seed, byte for byte:
1. The seed is SHAKE256 of a label and parts, 32 bytes out; each of them goes in behind its length, 8 bytes big-endian.
2. Keystream: AES-256-CTR under the seed; the counter block starts at 16 zero bytes and counts up, big-endian.
3. It is cut into words of 4 bytes, little-endian, whose highest bit is cleared.
4. Words that are p or more are skipped; the others in order are the residues, as many as are wanted.

So they depend on the seed, p and their number alone, and of fewer residues one gets the beginning.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

COMMON_LABEL = "cloister/v1/ckks-multikey/a"
SEED_BYTES = 32
_WORD_BYTES = 4
_WORD_MASK = np.uint32((1 << 31) - 1)

Words = npt.NDArray[np.uint32]


def public_seed(label: str, *parts: bytes) -> bytes:
    """The 32-byte seed of a label and parts: step 1."""
    state = hashlib.shake_256()
    for part in (label.encode(), *parts):
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest(SEED_BYTES)


def _fill(residues: Words, seed: bytes, prime: int) -> None:
    keystream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    filled = 0
    while filled < len(residues):
        missing = len(residues) - filled
        words = np.frombuffer(keystream.update(bytes(_WORD_BYTES * (missing + missing // 64 + 8))), "<u4") & _WORD_MASK
        accepted = words[words < prime][:missing]
        residues[filled : filled + len(accepted)] = accepted
        filled += len(accepted)


def uniform_residues(seed: bytes, prime: int, count: int) -> Words:
    """`count` residues modulo a prime between 2^30 and 2^31: steps 2 to 4."""
    residues = np.empty(count, np.uint32)
    _fill(residues, seed, prime)
    return residues


def common_polynomial(ctx: bytes, block: int, degree: int, primes: Sequence[int]) -> Words:
    """a_k of block k, which nobody chose: its NTT form, shape (primes, N), for the round whose digest `ctx` is.

    Row by row the residues modulo the prime of the seed of `COMMON_LABEL`, ctx, k and the prime, the latter two as 8
    bytes big-endian.
    """
    polynomial = np.empty((len(primes), degree), np.uint32)
    for row, prime in zip(polynomial, primes, strict=True):
        _fill(row, public_seed(COMMON_LABEL, ctx, block.to_bytes(8, "big"), prime.to_bytes(8, "big")), prime)
    return polynomial
