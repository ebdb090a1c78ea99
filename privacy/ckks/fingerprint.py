"""Fingerprints of ciphertexts: whether a committed sum is the sum of its members' updates (reference/protocol.md, 3-5).

A fingerprint is linear: <rho, c> modulo each prime, with rho drawn from the hash of everything that fixes the c's.
The fingerprints of the members add up to the sum's, and a sum that differs in one residue passes with a probability of
at most (2 / 2^30)^5 < 2^-144 for each rho that an adversary tries: rho is a tensor u x v (blocks times positions) with
entries drawn from 2^30 values that differ modulo every prime, so Schwartz-Zippel gives 2 / 2^30 for one repetition.
The aggregator knows every ciphertext, so fingerprints tell it nothing.

Residues come as whole blocks, shape (blocks, lanes, degree): one lane for each prime.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.ckks.layout import Layout, chunk_leaf, chunks_root
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.errors import InternalError, ProtocolError

REPETITIONS = 5
VALUE_BYTES = 8
LABEL = b"cloister/v1/fingerprint"
_ENTRY_MASK = (1 << 30) - 1

Value = tuple[int, ...]  # by repetition, then by prime


@dataclass(frozen=True, eq=False)
class Challenge:
    """rho, as the two halves of its tensor: shapes (5, blocks) and (5, degree), entries below 2^30."""

    blocks: npt.NDArray[np.uint32]
    positions: npt.NDArray[np.uint32]

    @classmethod
    def draw(cls, commit: bytes, blocks: int, degree: int) -> "Challenge":
        """SHAKE256(label | H(commit)), as little-endian words of which the lower 30 bits count: first v, then u."""
        words = REPETITIONS * (degree + blocks)
        drawn = np.frombuffer(hashlib.shake_256(LABEL + commit).digest(4 * words), "<u4") & np.uint32(_ENTRY_MASK)
        positions, rest = drawn[: REPETITIONS * degree], drawn[REPETITIONS * degree :]
        return cls(rest.reshape(REPETITIONS, blocks), positions.reshape(REPETITIONS, degree))


class Fingerprint:
    """The fingerprint of one ciphertext (or sum) under one challenge, taken in while its blocks pass by in order."""

    def __init__(self, challenge: Challenge, moduli: Sequence[int]) -> None:
        self._challenge = challenge
        self._moduli = tuple(moduli)
        self._seen = 0
        self._total = [[0] * len(self._moduli) for _ in range(REPETITIONS)]

    def add(self, residues: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """The next blocks, flat or in shape; residues are below their primes. Raises InternalError on surplus ones."""
        from privacy.ckks.fingerprint_kernel import inner_products, narrow_inner_products

        degree, lanes = self._challenge.positions.shape[1], len(self._moduli)
        blocks = residues.reshape(-1, lanes, degree)
        coefficients = self._challenge.blocks[:, self._seen : self._seen + len(blocks)]
        if coefficients.shape[1] != len(blocks):
            raise InternalError("fingerprint", "more blocks than the challenge has", "Report this.")
        self._seen += len(blocks)
        sums = np.zeros((len(blocks), lanes, REPETITIONS, 4), np.uint64)
        products = narrow_inner_products if blocks.dtype == np.uint32 else inner_products
        products(blocks, self._challenge.positions, sums)
        for block, of_block in enumerate(sums.tolist()):
            for lane, (prime, of_lane) in enumerate(zip(self._moduli, of_block, strict=True)):
                for repetition, (a, b, c, d) in enumerate(of_lane):
                    inner = a + (b << 32) + ((c + (d << 32)) << 30)
                    total = self._total[repetition]
                    total[lane] = (total[lane] + int(coefficients[repetition, block]) * inner) % prime

    def value(self) -> Value:
        """The fingerprint. Raises InternalError before all blocks came."""
        if self._seen != self._challenge.blocks.shape[1]:
            raise InternalError("fingerprint", "fewer blocks than the challenge has", "Report this.")
        return tuple(value for repetition in self._total for value in repetition)


def warm_up(layout: Layout | MultikeyLayout) -> None:
    """Compile the loop, or load what an earlier process compiled, so that no round waits for it."""
    chunk = bytes(layout.chunk_bytes(layout.chunks - 1))
    blocks = layout.check(chunk, layout.chunks - 1).reshape(-1, len(layout.moduli), layout.degree)
    Fingerprint(Challenge.draw(b"", len(blocks), layout.degree), layout.moduli).add(blocks)


def start_fingerprint(layout: Layout | MultikeyLayout, commit: bytes) -> Fingerprint:
    """That of an update or a sum of this layout, before its first block."""
    return Fingerprint(Challenge.draw(commit, layout.blocks, layout.degree), layout.moduli)


def root_and_fingerprint(
    layout: Layout | MultikeyLayout, commit: bytes, chunks: Iterable[bytes]
) -> tuple[bytes, Value]:
    """H(C), the tree hash over all chunks, and the fingerprint, in one pass; every chunk is checked.

    Raises ProtocolError on chunks that are missing, surplus, of a wrong size or not reduced.
    """
    leaves, fingerprint, room = [], start_fingerprint(layout, commit), layout.room()
    for index, chunk in enumerate(chunks):
        fingerprint.add(layout.check(chunk, index, into=room))
        leaves.append(chunk_leaf(chunk))
    if len(leaves) != layout.chunks:
        raise ProtocolError("residues", f"are {len(leaves)} chunks, expected {layout.chunks}", "Fetch them again.")
    return chunks_root(leaves), fingerprint.value()


def fingerprint_of(layout: Layout | MultikeyLayout, commit: bytes, chunks: Iterable[bytes | memoryview]) -> Value:
    """The fingerprint of a whole update or sum, given as its residue chunks. Raises as `root_and_fingerprint`."""
    fingerprint, room = start_fingerprint(layout, commit), layout.room()
    for index, chunk in enumerate(chunks):
        fingerprint.add(layout.check(chunk, index, into=room))
    return fingerprint.value()


def add_values(values: Iterable[Value], moduli: Sequence[int]) -> Value:
    """The fingerprint that the sum must have."""
    primes = tuple(moduli) * REPETITIONS
    return tuple(sum(each) % prime for each, prime in zip(zip(*values, strict=True), primes, strict=True))


def encode(value: Value) -> str:
    """Hexadecimal, 8 bytes little-endian for each number."""
    return b"".join(number.to_bytes(VALUE_BYTES, "little") for number in value).hex()


def decode(text: str, moduli: Sequence[int], sender: str) -> Value:
    """The inverse of `encode`. Raises ProtocolError, naming the sender, on a wrong length or an unreduced number."""
    data, primes = bytes.fromhex(text), tuple(moduli) * REPETITIONS
    numbers = tuple(int.from_bytes(data[i : i + VALUE_BYTES], "little") for i in range(0, len(data), VALUE_BYTES))
    if len(data) != VALUE_BYTES * len(primes) or any(n >= p for n, p in zip(numbers, primes, strict=True)):
        why = f"is not {len(primes)} numbers, each below its prime"
        raise ProtocolError("fingerprint", why, "It was not accepted.", sender=sender, step="fingerprint")
    return numbers
