"""Fingerprints against plain integers, their linearity, and their strict form."""

import hashlib

import numpy as np
import pytest

from privacy.ckks.fingerprint import (
    LABEL,
    REPETITIONS,
    Challenge,
    Fingerprint,
    add_values,
    decode,
    encode,
    fingerprint_of,
)
from privacy.ckks.layout import Layout, add_into
from privacy.ckks.params import DEGREE, PRIME
from privacy.errors import InternalError, ProtocolError

COMMIT = b"c" * 32
PRIMES31 = (2_147_352_577, 2_147_205_121)
RNG = np.random.default_rng(1)


def by_hand(residues: np.ndarray, moduli: tuple[int, ...]) -> tuple[int, ...]:
    """The definition of docs/reference/protocol.md in Python's integers. Shape: (blocks, lanes, degree)."""
    blocks, lanes, degree = residues.shape
    data = hashlib.shake_256(LABEL + COMMIT).digest(4 * REPETITIONS * (degree + blocks))
    words = [int.from_bytes(data[i : i + 4], "little") % 2**30 for i in range(0, len(data), 4)]
    value = []
    for r in range(REPETITIONS):
        v = words[r * degree : (r + 1) * degree]
        start = REPETITIONS * degree + r * blocks
        u = words[start : start + blocks]
        for lane in range(lanes):
            terms = (u[b] * v[j] * int(residues[b, lane, j]) for b in range(blocks) for j in range(degree))
            value.append(sum(terms) % moduli[lane])
    return tuple(value)


@pytest.mark.parametrize(("dtype", "moduli"), [(np.uint64, (PRIME,)), (np.uint32, PRIMES31)])
def test_it_is_what_the_protocol_says(dtype, moduli):
    residues = np.stack([RNG.integers(0, prime, (3, 64), dtype=dtype) for prime in moduli], axis=1)
    residues[0, 0, :3] = moduli[0] - 1
    fingerprint = Fingerprint(Challenge.draw(COMMIT, 3, 64), moduli)
    fingerprint.add(residues[:1])
    fingerprint.add(residues[1:])
    assert fingerprint.value() == by_hand(residues, moduli)


def chunks_of(residues: np.ndarray, layout: Layout) -> list[bytes]:
    return [residues[layout.chunk_span(i)].tobytes() for i in range(layout.chunks)]


def test_the_members_add_up_to_the_sum():
    layout = Layout(31 * 8192 + 5)  # two chunks
    updates = [RNG.integers(0, PRIME, layout.blocks * DEGREE, dtype=np.uint64) for _ in range(3)]
    total = layout.empty_sum()
    for update in updates:
        add_into(total, update)
    values = [fingerprint_of(layout, COMMIT, chunks_of(update, layout)) for update in updates]
    assert add_values(values, layout.moduli) == fingerprint_of(layout, COMMIT, chunks_of(total, layout))
    assert fingerprint_of(layout, b"d" * 32, chunks_of(total, layout)) != add_values(values, layout.moduli)


def test_missing_and_surplus_blocks_are_our_own_fault():
    fingerprint = Fingerprint(Challenge.draw(COMMIT, 2, DEGREE), (PRIME,))
    fingerprint.add(np.zeros(DEGREE, np.uint64))
    with pytest.raises(InternalError, match="fewer blocks"):
        fingerprint.value()
    with pytest.raises(InternalError, match="more blocks"):
        fingerprint.add(np.zeros(2 * DEGREE, np.uint64))


def test_a_value_survives_its_encoding():
    value = (0, 1, PRIME - 1, 5, 6)
    assert decode(encode(value), (PRIME,), "east") == value


@pytest.mark.parametrize("text", ["", "00" * 39, "00" * 48, (PRIME).to_bytes(8, "little").hex() + "00" * 32])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(ProtocolError, match="is not 5 numbers, each below its prime") as caught:
        decode(text, (PRIME,), "east")
    assert caught.value.sender == "east"
