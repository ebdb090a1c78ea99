"""What everybody expands from public seeds is the same everywhere, reduced and uniform."""

import hashlib
import json
from math import sqrt

import numpy as np
import pytest

from privacy.ckks.ring import PRIME_COUNTS
from privacy.ckks.ring_primes import ntt_primes
from privacy.ckks.uniform import common_polynomial, public_seed, uniform_residues
from tests import reference_sampler as reference
from tests.reference_ring import VECTORS as FOLDER

VECTORS = json.loads((FOLDER / "sampler.json").read_text())
HALF = 1073741827  # the least prime above 2^30: every other word is skipped
CTX = hashlib.sha256(b"a round").digest()


@pytest.mark.parametrize("vector", VECTORS["uniform"], ids=lambda vector: str(vector["prime"]))
def test_seeds_and_residues_of_the_vectors(vector):
    seed = public_seed(vector["label"], *map(bytes.fromhex, vector["parts"]))
    assert seed.hex() == vector["seed"]
    residues = uniform_residues(seed, vector["prime"], len(vector["residues"]))
    assert residues.dtype == np.uint32
    assert residues.tolist() == vector["residues"]


@pytest.mark.parametrize("vector", VECTORS["common"], ids=lambda vector: f"{vector['degree']}-{vector['block']}")
def test_common_polynomials_of_the_vectors(vector):
    degree = vector["degree"]
    primes = ntt_primes(degree, PRIME_COUNTS[degree])
    polynomial = common_polynomial(bytes.fromhex(vector["ctx"]), vector["block"], degree, primes)
    assert polynomial.shape == (len(primes), degree)
    assert polynomial.dtype == np.uint32
    assert polynomial.flags.c_contiguous
    row = polynomial[primes.index(vector["prime"])]
    assert row[:4].tolist() == vector["first"]
    assert hashlib.sha256(row.astype("<u4").tobytes()).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("prime", [HALF, 2147483647])
def test_residues_are_the_words_below_p_in_order_and_fewer_are_the_beginning(prime):
    seed = public_seed("test")
    residues = uniform_residues(seed, prime, 5000)
    words = np.frombuffer(reference.keystream(seed, 4 * 12_000), "<u4") & 0x7FFFFFFF
    assert np.array_equal(residues, words[words < prime][:5000])
    for count in (0, 1, 63, 64, 65, 1000):
        assert np.array_equal(uniform_residues(seed, prime, count), residues[:count])


def test_a_word_that_is_p_itself_is_skipped():
    seed = public_seed("test")
    words = [int(word) for word in np.frombuffer(reference.keystream(seed, 400), "<u4") & 0x7FFFFFFF]
    bound = max(words)
    assert uniform_residues(seed, bound, 99).tolist() == [word for word in words if word != bound]


def test_residues_are_uniform():
    count, cells = 1 << 20, 1 << 10
    for prime in (HALF, 2147377153):
        residues = uniform_residues(public_seed("test"), prime, count)
        assert residues.max() < prime
        counts = np.bincount(residues.astype(np.uint64) * cells // prime, minlength=cells)
        lowest = np.bincount(residues % cells, minlength=cells)
        for found in (counts, lowest):
            assert abs(((found - count / cells) ** 2).sum() / (count / cells) - cells) < 4 * sqrt(2 * cells)


def test_rows_blocks_and_rounds_have_nothing_in_common():
    primes = ntt_primes(4096, 3)
    other = hashlib.sha256(b"another round").digest()
    polynomials = [common_polynomial(ctx, block, 4096, primes) for ctx in (CTX, other) for block in (0, 1, 256)]
    rows = np.concatenate(polynomials)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    assert len(pairs) == 153
    assert all((rows[i] == rows[j]).mean() < 0.001 for i, j in pairs)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", b"c"), ("a", b"bc")),
        (("a", b"b", b"c"), ("a", b"bc")),
        (("a", b""), ("a",)),
        (("a", b"", b"b"), ("a", b"b", b"")),
    ],
)
def test_other_parts_give_another_seed(first, second):
    assert public_seed(*first) != public_seed(*second)
