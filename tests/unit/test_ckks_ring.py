"""The ring against its definition in plain integers (tests/reference_ring.py) and against the stored vectors."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import pytest
from numba import njit

from privacy.ckks import ring_kernels
from privacy.ckks.compiled import kernel
from privacy.ckks.ring import PRIME_COUNTS, Ring, ring_of
from privacy.ckks.ring_primes import is_prime, ntt_primes
from privacy.ckks.ring_tables import smallest_root
from privacy.errors import InternalError
from tests import reference_ring as reference

DEGREES = sorted(PRIME_COUNTS)
TINY = Ring(16, ntt_primes(16, 3))
VECTORS = json.loads((reference.VECTORS / "ring.json").read_text())


def random_residues(ring, seed=1):
    rng = np.random.default_rng(seed)
    return np.array([rng.integers(0, p, ring.degree) for p in ring.primes]).astype(np.uint32)


def random_small(ring, bound, seed=1):
    return np.random.default_rng(seed).integers(-bound, bound + 1, ring.degree).astype(np.int32)


def edges(ring):
    """Residues all 0, all 1, all p - 1, and 0 and p - 1 in turn."""
    tops = np.array(ring.primes, np.uint32)[:, None] - np.uint32(1)
    odd = np.arange(ring.degree, dtype=np.uint32) % 2
    rows = (tops * 0, tops * 0 + 1, tops, tops * odd)
    return [np.broadcast_to(row, ring.shape).copy() for row in rows]


def test_the_vectors_are_what_the_reference_makes():
    assert reference.ring_vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["rings"], ids=lambda vector: str(vector["degree"]))
def test_primes_and_roots_of_the_suite(vector):
    ring = ring_of(vector["degree"])
    assert list(ring.primes) == vector["primes"]
    assert [smallest_root(ring.degree, prime) for prime in ring.primes] == vector["roots"]
    assert ring_of(ring.degree) is ring


def test_moduli_are_as_long_as_the_parameter_table_says():
    assert [prod(ring_of(degree).primes).bit_length() for degree in DEGREES] == [93, 186, 403]


def test_no_smaller_root_is_left_out():
    for degree in DEGREES:
        for prime in ring_of(degree).primes:
            root = smallest_root(degree, prime)
            powers = np.arange(1, root + 1, dtype=np.uint64)
            for _ in range(degree.bit_length() - 1):
                powers = powers * powers % np.uint64(prime)
            assert np.flatnonzero(powers == prime - 1).tolist() == [root - 1]


def test_the_prime_test_decides_as_trial_division_does():
    rng = random.Random(4)
    pseudoprimes = [2047, 2147418113, 1373653, 25326001, 2147483647, 2147483647 - 2, 46337 * 46337, 46337 * 46349]
    for number in [*range(2000), *pseudoprimes, *(rng.randrange(1 << 30, 1 << 31) for _ in range(300))]:
        assert is_prime(number) == reference.is_prime(number), number


def test_a_degree_with_too_few_primes_is_our_bug():
    with pytest.raises(InternalError, match="there are not 99 for degree 4194304"):
        ntt_primes(1 << 22, 99)


@pytest.mark.parametrize("vector", VECTORS["products"])
def test_the_way_to_a_mask(vector):
    ring = Ring(vector["degree"], tuple(vector["primes"]))
    a = ring.lift(np.array(vector["a"], np.int32))
    ring.to_ntt(a)
    assert a.tolist() == vector["a_ntt"]
    s, e = (np.array(vector[name], np.int32) for name in "se")
    mask = ring.mask(a, ring.multiplier(s), e)
    assert mask.tolist() == vector["mask"]
    assert ring.limbs(mask).T.tolist() == vector["mask_limbs"]


@pytest.mark.parametrize("degree", [16, 32, 128])
def test_the_transform_is_evaluation_at_the_odd_powers_of_the_root(degree):
    ring = Ring(degree, ntt_primes(degree, 2))
    for polynomial in [*edges(ring), random_residues(ring)]:
        transformed = polynomial.copy()
        ring.to_ntt(transformed)
        for row, values, prime in zip(polynomial.tolist(), transformed.tolist(), ring.primes, strict=True):
            assert values == reference.ntt(row, reference.smallest_root(degree, prime), prime)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_transform_at_the_suite_s_degrees(degree):
    ring, places = ring_of(degree), (0, 1, 7, 8, degree // 2, degree - 1)
    roots = next(vector["roots"] for vector in VECTORS["rings"] if vector["degree"] == degree)
    polynomial = random_residues(ring)
    transformed = polynomial.copy()
    ring.to_ntt(transformed)
    for row, values, root, prime in zip(polynomial.tolist(), transformed, roots, ring.primes, strict=True):
        assert [reference.value_at(row, place, root, prime) for place in places] == values[list(places)].tolist()


@pytest.mark.parametrize("degree", [16, 64, *DEGREES])
def test_the_inverse_transform_undoes_the_transform(degree):
    ring = TINY if degree == 16 else Ring(degree, ntt_primes(degree, 2)) if degree == 64 else ring_of(degree)
    for polynomial in [*edges(ring), random_residues(ring)]:
        changed = polynomial.copy()
        ring.to_ntt(changed)
        ring.from_ntt(changed)
        assert np.array_equal(changed, polynomial)
        ring.from_ntt(changed)
        ring.to_ntt(changed)
        assert np.array_equal(changed, polynomial)


@pytest.mark.parametrize("bound", [60, (1 << 30) - 1])
@pytest.mark.parametrize("degree", DEGREES)
def test_a_product_is_the_negacyclic_one(degree, bound):
    ring, small = ring_of(degree), random_small(ring_of(degree), bound)
    rows = sorted({0, len(ring.primes) // 2, len(ring.primes) - 1})
    for residues in (random_residues(ring), edges(ring)[2]):
        exact = [
            [
                value % prime
                for value in reference.kronecker(residues[k].tolist(), (small.astype(object) % prime).tolist())
            ]
            for k, prime in ((k, ring.primes[k]) for k in rows)
        ]
        ntt = residues.copy()
        ring.to_ntt(ntt)
        multiplier = ring.multiplier(small)
        assert ring.product(ntt, multiplier)[rows].tolist() == exact
        pointwise = ring.multiply(ntt, multiplier)
        ring.from_ntt(pointwise)
        assert pointwise[rows].tolist() == exact


def test_one_multiplication_of_long_integers_is_the_schoolbook_product():
    rng = random.Random(3)
    first, second = ([rng.randrange(1 << 31) for _ in range(50)] for _ in range(2))
    assert reference.kronecker(first, second) == reference.schoolbook(first, second)


@pytest.mark.parametrize("prime", [1073741827, 2147377153, 2147483647])
def test_quotients_of_a_factor_are_exact(prime):
    factors = np.concatenate(
        [
            np.arange(2000),
            np.arange(prime - 2000, prime),
            np.arange(prime // 2 - 500, prime // 2 + 500),
            np.random.default_rng(1).integers(0, prime, 20_000),
        ]
    ).astype(np.uint32)[None]
    quotients = np.empty_like(factors)
    ring_kernels.shoup_quotients(factors, np.array([prime], np.uint32), quotients)
    assert quotients[0].tolist() == [(factor << 32) // prime for factor in factors[0].tolist()]


def test_lifting_keeps_the_sign():
    ring, bound = TINY, (1 << 30) - 1
    small = np.array([0, 1, -1, 2, -2, bound, -bound, 1000, -1000, 7, -7, 0, 0, 5, -5, 1], np.int32)
    assert ring.lift(small).tolist() == [[value % prime for value in small.tolist()] for prime in ring.primes]


def test_sums_and_differences_are_modulo_each_prime():
    moduli = np.array(TINY.primes, object)[:, None]
    every = [*edges(TINY), random_residues(TINY, 1), random_residues(TINY, 2)]
    for first in every:
        for second in every:
            total, difference = first.copy(), first.copy()
            TINY.add(total, second)
            TINY.subtract(difference, second)
            assert (total == (first.astype(object) + second) % moduli).all()
            assert (difference == (first.astype(object) - second) % moduli).all()


@pytest.mark.parametrize("degree", [16, *DEGREES])
def test_limbs_are_those_of_the_integer_the_residues_stand_for(degree):
    ring = TINY if degree == 16 else ring_of(degree)
    modulus, count, rng = prod(ring.primes), len(ring.primes), random.Random(degree)
    values = [0, 1, modulus - 1, modulus // 2, *ring.primes, modulus // ring.primes[0], modulus - ring.primes[-1]]
    values = [*values, *(rng.randrange(modulus) for _ in range(ring.degree))][: ring.degree]
    coefficients = np.array([[value % prime for value in values] for prime in ring.primes], np.uint32)
    before = coefficients.copy()
    limbs = ring.limbs(coefficients)
    assert limbs.T.tolist() == [reference.limbs_of(value, count) for value in values]
    assert np.array_equal(coefficients, before)
    assert reference.combine(coefficients[:, 2].tolist(), ring.primes) == modulus - 1


def test_threads_may_share_a_ring():
    ring = ring_of(4096)
    jobs = [(random_residues(ring, i), ring.multiplier(random_small(ring, 60, i))) for i in range(8)]
    alone = [ring.product(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: ring.product(*job), jobs))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("degree", "primes"),
    [
        (24, ntt_primes(16, 2)),
        (8, ntt_primes(16, 2)),
        (16, ()),
        (16, (TINY.primes[0], TINY.primes[0])),
        (1 << 20, ntt_primes(1 << 20, 1)),
        (4096, ntt_primes(2048, 3)),
        (16, (1073741857 * 3,)),
        (16, (2147483649,)),
        (16, (7681,)),
        (16, (2147483617,)),
    ],
)
def test_what_is_no_ring_is_our_bug(degree, primes):
    with pytest.raises(InternalError, match=f"ring: degree {degree} and these primes make none"):
        Ring(degree, primes)


def test_the_suite_has_three_degrees():
    with pytest.raises(InternalError, match="none of degree 2048"):
        ring_of(2048)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((3, 16), np.uint64),
        np.zeros((3, 16), np.int32),
        np.zeros((2, 16), np.uint32),
        np.zeros((3, 32), np.uint32)[:, ::2],
        np.zeros(16, np.uint32),
        read_only(np.zeros((3, 16), np.uint32)),
    ],
)
def test_an_array_a_kernel_is_not_made_for_is_our_bug(bad):
    good, small = np.zeros((3, 16), np.uint32), np.zeros(16, np.int32)
    multiplier = TINY.multiplier(small)
    for call in (
        lambda: TINY.to_ntt(bad),
        lambda: TINY.from_ntt(bad),
        lambda: TINY.multiply(bad, multiplier),
        lambda: TINY.product(bad, multiplier),
        lambda: TINY.mask(bad, multiplier, small),
        lambda: TINY.add(bad, good),
        lambda: TINY.add(good, bad),
        lambda: TINY.subtract(bad, good),
        lambda: TINY.subtract(good, bad),
        lambda: TINY.limbs(bad),
    ):
        with pytest.raises(InternalError, match=r"ring polynomial: .* expected writable uint32 of shape \(3, 16\)"):
            call()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (np.zeros(16, np.int64), "is not writable int32"),
        (np.zeros(15, np.int32), "is not writable int32"),
        (np.zeros((1, 16), np.int32), "is not writable int32"),
        (np.zeros(32, np.int32)[::2], "is not writable int32"),
        (np.full(16, 1 << 30, np.int32), "has a coefficient of 2\\^30 or more"),
        (np.full(16, -(1 << 30), np.int32), "has a coefficient of 2\\^30 or more"),
        (np.full(16, -(1 << 31), np.int32), "has a coefficient of 2\\^30 or more"),
    ],
)
def test_small_polynomials_are_small(bad, why):
    good = np.zeros(16, np.int32)
    for call in (TINY.lift, TINY.multiplier, lambda bad: TINY.mask(TINY.lift(good), TINY.multiplier(good), bad)):
        with pytest.raises(InternalError, match=f"small polynomial: {why}"):
            call(bad)


def test_a_multiplier_says_nothing_of_itself():
    assert repr(TINY.multiplier(random_small(TINY, 60))) == "Multiplier()"


WARM_UP_ALONE = """
import numpy as np
from privacy.ckks import ring, ring_kernels
ring.warm_up(ring.Ring(16, ring.ntt_primes(16, 2)))
kernels = [kernel for kernel in vars(ring_kernels).values() if getattr(kernel, "targetoptions", {}).get("nogil")]
compiled = [len(kernel.signatures) for kernel in kernels]
assert len(compiled) == 9 and all(compiled), kernels
large, ones = ring.ring_of(4096), np.ones(4096, np.int32)
mask = large.mask(large.lift(ones), large.multiplier(ones), ones)
large.add(mask, large.limbs(mask))
assert compiled == [len(kernel.signatures) for kernel in kernels], kernels
"""


def test_after_warming_up_nothing_is_left_to_compile():
    done = subprocess.run([sys.executable, "-c", WARM_UP_ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_kernel_that_cannot_be_kept_is_compiled_all_the_same():
    """numba finds no folder for a source file that is not there, as for one in folders that it cannot write to."""
    names = {}
    exec(compile("def double(x):\n    return 2 * x", "/nonexistent/kernels.py", "exec"), names)
    with pytest.raises(RuntimeError, match="no locator available"):
        njit(cache=True)(names["double"])
    double = kernel(names["double"])
    assert double(21) == 42
    assert double.signatures
