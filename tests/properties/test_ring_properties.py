"""For every small ring and polynomial: transforms are inverse and linear, products and recombination are exact."""

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.ckks.ring import Ring
from privacy.ckks.ring_primes import ntt_primes
from tests import reference_ring as reference

RINGS = [Ring(degree, ntt_primes(degree, count)) for degree in (16, 32, 64) for count in (1, 2, 5)]
SMALL = st.integers(1 - (1 << 30), (1 << 30) - 1)


@st.composite
def polynomials(draw, count):
    ring = draw(st.sampled_from(RINGS))
    rows = [
        [draw(st.lists(st.integers(0, p - 1), min_size=ring.degree, max_size=ring.degree)) for p in ring.primes]
        for _ in range(count)
    ]
    return ring, *(np.array(row, np.uint32) for row in rows)


@settings(max_examples=60, deadline=None)
@given(polynomials(1), st.data())
def test_a_product_is_the_schoolbook_product(polynomial, data):
    ring, first = polynomial
    small = data.draw(st.lists(SMALL, min_size=ring.degree, max_size=ring.degree))
    exact = [
        [value % prime for value in reference.schoolbook(row, small)]
        for row, prime in zip(first.tolist(), ring.primes, strict=True)
    ]
    ring.to_ntt(first)
    assert ring.product(first, ring.multiplier(np.array(small, np.int32))).tolist() == exact


@settings(max_examples=60, deadline=None)
@given(polynomials(2))
def test_the_transform_is_linear_and_has_an_inverse(polynomials):
    ring, first, second = polynomials
    total = first.copy()
    ring.add(total, second)
    transformed = [first.copy(), second.copy(), total.copy()]
    for polynomial in transformed:
        ring.to_ntt(polynomial)
    ring.add(transformed[0], transformed[1])
    assert np.array_equal(transformed[0], transformed[2])
    ring.from_ntt(transformed[2])
    assert np.array_equal(transformed[2], total)
    ring.subtract(total, second)
    assert np.array_equal(total, first)


@settings(max_examples=60, deadline=None)
@given(polynomials(1))
def test_limbs_are_the_integer_of_the_residues(polynomial):
    ring, coefficients = polynomial
    modulus = prod(ring.primes)
    for column, limbs in zip(coefficients.T.tolist(), ring.limbs(coefficients).T.tolist(), strict=True):
        value = sum(limb << (32 * i) for i, limb in enumerate(limbs))
        assert value < modulus
        assert [value % prime for prime in ring.primes] == column
