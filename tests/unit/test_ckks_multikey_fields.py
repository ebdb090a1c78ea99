"""The loops that put fields into residues and take them out, against Python's integers."""

import random

import numpy as np
import pytest

from privacy.ckks.multikey_fields import add_fields, take_fields
from privacy.ckks.multikey_params import MultikeyParams

PRIMES = MultikeyParams("small", 3, 8).primes


def words(numbers):
    return np.array(numbers, np.uint32)


@pytest.mark.parametrize("width", [32, 992, 1024, 1056, 4096])
@pytest.mark.parametrize("count", [1, 8, 63])
@pytest.mark.parametrize("extreme", [False, True])
def test_fields_are_added_modulo_each_prime(width, count, extreme):
    rng = np.random.default_rng(width + count)
    fields = rng.integers(65_535 if extreme else 0, 65_536, (count, width)).astype(np.uint16)
    least = [prime - 1 if extreme else 0 for prime in PRIMES]
    weights = np.stack([rng.integers(low, p, count) for low, p in zip(least, PRIMES, strict=True)]).astype(np.uint32)
    residues = np.stack([rng.integers(low, p, 4096) for low, p in zip(least, PRIMES, strict=True)]).astype(np.uint32)
    exact = residues.astype(object)
    exact[:, :width] += weights.astype(object) @ fields.astype(object)
    add_fields(fields, weights, words(PRIMES), residues)
    assert (residues == exact % np.array(PRIMES, object)[:, None]).all()


def limbs_of(integers, count):
    return words([[integer >> (32 * k) & 0xFFFFFFFF for integer in integers] for k in range(count)])


@pytest.mark.parametrize("field_bits", [10, 16, 23, 32])
@pytest.mark.parametrize("limbs", [3, 6, 13])
def test_fields_are_taken_out_of_integers(field_bits, limbs):
    count, chosen = (31 * limbs - 12) // field_bits, random.Random(field_bits * limbs)
    top = 12 + count * field_bits
    integers = [chosen.randrange(1 << top) for _ in range(32)]
    fields = np.zeros((count, 32), np.uint32)
    farthest, above = take_fields(limbs_of(integers, limbs), 12, field_bits, fields)
    for i, row in enumerate(fields.tolist()):
        assert row == [(n >> (12 + i * field_bits)) % (1 << field_bits) for n in integers]
    assert farthest == max(abs(n % 4096 - 2048) for n in integers)
    assert above == 0


@pytest.mark.parametrize("lowest", [0, 1, 2048, 4095])
def test_the_distance_from_half_is_either_way(lowest):
    farthest, _ = take_fields(limbs_of([2048, lowest + (5 << 12)], 3), 12, 20, np.zeros((4, 2), np.uint32))
    assert farthest == abs(lowest - 2048)


@pytest.mark.parametrize("bit", range(35, 96))
def test_no_bit_above_the_fields_is_missed(bit):
    _, above = take_fields(limbs_of([0, 1 << bit], 3), 12, 23, np.zeros((1, 2), np.uint32))
    assert above > 0


def test_coefficients_outside_the_width_are_not_looked_at():
    everything = limbs_of([2048] * 32 + [(1 << 96) - 1] * 32, 3)
    fields = np.zeros((1, 32), np.uint32)
    assert take_fields(everything, 12, 20, fields) == (0, 0)
    assert not fields.any()
