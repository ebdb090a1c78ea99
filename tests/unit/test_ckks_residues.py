"""What an aggregator does with ciphertexts, against Python's integers."""

import subprocess
import sys

import numpy as np
import pytest

from privacy.ckks.residues import add_into, unreduced
from privacy.ckks.ring_primes import ntt_primes
from privacy.errors import InternalError

PRIMES = ntt_primes(4096, 3)
MODULI = np.array(PRIMES, object)


def residues(blocks, width, seed=1):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, p, (blocks, width)) for p in PRIMES], axis=1).astype(np.uint32)


def tops(blocks, width):
    return np.broadcast_to(np.array(PRIMES, np.uint32)[:, None] - np.uint32(1), (blocks, 3, width)).copy()


def test_addition_is_modulo_each_prime():
    for first in (residues(3, 40), tops(3, 40), tops(3, 40) * np.uint32(0)):
        for second in (residues(3, 40, 2), tops(3, 40)):
            total = first.copy()
            add_into(total, second, PRIMES)
            assert (total == (first.astype(object) + second) % MODULI[:, None]).all()


def test_received_bytes_are_added_without_a_copy():
    data = residues(1, 40)
    total = np.zeros_like(data)
    add_into(total, np.frombuffer(data.tobytes(), np.uint32).reshape(data.shape), PRIMES)
    assert np.array_equal(total, data)


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 1, 17), (2, 2, 39)])
def test_a_residue_that_is_not_reduced_is_found_and_not_added(place):
    bad = residues(3, 40)
    bad[place] = PRIMES[place[1]]
    total = residues(3, 40, 2)
    before = total.copy()
    assert unreduced(bad, PRIMES) == 1
    assert unreduced(tops(3, 40), PRIMES) == 0
    assert unreduced(tops(3, 40) + np.uint32(1), PRIMES) == 3 * 3 * 40
    with pytest.raises(InternalError, match="residue sum: shapes differ or a residue is not reduced"):
        add_into(total, bad, PRIMES)
    assert np.array_equal(total, before)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 3, 40), np.uint64),
        np.zeros((3, 40), np.uint32),
        np.zeros((2, 2, 40), np.uint32),
        np.zeros((2, 3, 80), np.uint32)[:, :, ::2],
    ],
)
def test_arrays_of_another_kind_are_our_bug(bad):
    good = np.zeros((2, 3, 40), np.uint32)
    for call in (
        lambda: unreduced(bad, PRIMES),
        lambda: add_into(good, bad, PRIMES),
        lambda: add_into(bad, good, PRIMES),
    ):
        with pytest.raises(InternalError, match="residues: are "):
            call()


def test_a_sum_of_another_shape_is_our_bug():
    with pytest.raises(InternalError, match="shapes differ"):
        add_into(np.zeros((2, 3, 40), np.uint32), np.zeros((2, 3, 39), np.uint32), PRIMES)


def test_it_reaches_nothing_that_opens():
    program = "import sys, privacy.ckks.residues; print(*[m for m in sys.modules if m.startswith('privacy.ckks.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"privacy.ckks.compiled", "privacy.ckks.residues"}
