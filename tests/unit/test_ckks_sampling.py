"""Keystream and discrete Gaussian: against the reference, against exact probabilities, at the edges of the tables."""

import json
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest

from privacy.ckks.multikey_params import VARIANCE
from privacy.ckks.sampling import SecureBits, draw_gaussian, draw_wide_gaussian, gaussian_thresholds
from tests import reference_sampler as reference
from tests.reference_ring import VECTORS as FOLDER

VECTORS = json.loads((FOLDER / "sampler.json").read_text())
VARIANCES = [VARIANCE / 2, VARIANCE]
MANY = 1 << 21


class Bytes(SecureBits):
    """A stream whose bytes a test has chosen."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        taken, self.data = self.data[:count], self.data[count:]
        assert len(taken) == count
        return taken


def fixed(number=0):
    return SecureBits.from_key_for_tests(number.to_bytes(32, "big"))


def table(variance):
    high, low = gaussian_thresholds(variance)
    return [h << 64 | w for h, w in zip(high.tolist(), low.tolist(), strict=True)]


def test_the_vectors_are_what_the_reference_makes():
    assert reference.sampler_vectors() == VECTORS


def test_the_keystream_is_aes_256_in_counter_mode():
    bits = SecureBits.from_key_for_tests(bytes(range(32)))
    assert bits.take(5) + bits.take(0) + bits.take(100) == reference.keystream(bytes(range(32)), 105)
    # H of test case 13 of GCM's specification (McGrew and Viega, appendix B): zeros under a key of zeros.
    assert fixed().take(16).hex() == "dc95c078a2408989ad48a21492842087"


def test_every_stream_has_its_own_key_and_does_not_show_it():
    assert SecureBits().take(32) != SecureBits().take(32)
    bits = SecureBits.from_key_for_tests(b"nobody may see a key of 32 bytes")
    assert "nobody" not in repr(bits) + repr(vars(bits))


FORK = """
import os
from privacy.ckks.sampling import SecureBits
from privacy.errors import InternalError
bits = SecureBits()
child = os.fork()
if child == 0:
    try:
        bits.take(1)
    except InternalError as error:
        os._exit(7 if "a parent process's" in str(error) else 8)
    os._exit(9)
bits.take(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_process_cannot_repeat_its_parents_keystream():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("vector", VECTORS["gaussian"], ids=lambda vector: vector["variance"])
def test_thresholds_and_samples_of_the_vectors(vector):
    variance = Fraction(vector["variance"])
    assert variance in VARIANCES
    assert [f"{threshold:032x}" for threshold in table(variance)] == vector["thresholds"]
    bits = SecureBits.from_key_for_tests(bytes.fromhex(vector["keystream_key"]))
    assert draw_gaussian(variance, len(vector["samples"]), bits).tolist() == vector["samples"]


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("count", [1, 7, 8, 4097])
def test_samples_are_the_reference_s(variance, count):
    bits, stream = fixed(count), reference.keystream(count.to_bytes(32, "big"), 16 * count + (count + 7) // 8)
    samples = draw_gaussian(variance, count, bits)
    assert samples.dtype == np.int32
    assert samples.tolist() == reference.gaussian(variance, count, stream)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_distance_from_the_true_distribution(variance):
    """Half the sum of all differences of probabilities, from thresholds as they are and probabilities to 150 digits."""
    steps = [0, *table(variance), 2**128]
    sampled = [Fraction(after - before, 2**128) for before, after in pairwise(steps)]
    true = reference.magnitudes(variance)
    distance = sum(abs(s - t) for s, t in zip(sampled, true, strict=False)) + sum(true[len(sampled) :])
    assert len(sampled) <= 85
    assert distance / 2 < Fraction(1, 2**122)
    assert sum(true[len(sampled) :]) < Fraction(1, 2**128)


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_threshold_is_compared_in_full(variance):
    """u just below, at and just above each threshold, at 0 and at 2^128 - 1, with both signs."""
    thresholds = table(variance)
    words = [0, 2**128 - 1, *(threshold + step for threshold in thresholds for step in (-1, 0, 1))]
    words = [word for word in words if word < 2**128] * 2
    signs = np.arange(len(words)) >= len(words) // 2
    stream = b"".join(
        [
            *((word >> 64).to_bytes(8, "little") for word in words),
            *((word & (2**64 - 1)).to_bytes(8, "little") for word in words),
            np.packbits(signs, bitorder="little").tobytes(),
        ]
    )
    expected = [sum(word >= threshold for threshold in thresholds) for word in words]
    signed = [-x if minus else x for x, minus in zip(expected, signs, strict=True)]
    assert draw_gaussian(variance, len(words), Bytes(stream)).tolist() == signed
    assert max(signed) == -min(signed) == len(thresholds)


@pytest.mark.parametrize("variance", VARIANCES)
def test_two_million_samples_fit_the_distribution(variance):
    samples = draw_gaussian(variance, MANY, fixed(1)).astype(np.int64)
    sigma, probabilities = sqrt(variance), [float(p) for p in reference.magnitudes(variance)[:60]]
    assert abs(samples.mean()) < 4 * sigma / sqrt(MANY)
    assert abs(samples.var() / float(variance) - 1) < 4 * sqrt(2 / MANY)
    assert abs((samples**4).mean() / float(variance) ** 2 - 3) < 4 * sqrt(96 / MANY)
    assert abs((samples[1:] * samples[:-1]).mean()) < 4 * float(variance) / sqrt(MANY)
    # the greatest of 2^21 normal samples is 5.0 sigma; beyond 6.5 sigma lies 1 in 10^10
    assert 4.5 * sigma < np.abs(samples).max() < 6.5 * sigma
    values = [x for x in range(-59, 60) if probabilities[abs(x)] * MANY > 20]
    expected = np.array([probabilities[abs(x)] * (1 if x == 0 else 0.5) for x in values]) * MANY
    counts = np.array([(samples == x).sum() for x in values])
    rest = MANY - expected.sum()
    chi_squared = ((counts - expected) ** 2 / expected).sum() + (MANY - counts.sum() - rest) ** 2 / rest
    assert abs(chi_squared - len(values)) < 4 * sqrt(2 * len(values))


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_share_of_samples_beyond_each_distance(variance):
    samples = np.abs(draw_gaussian(variance, MANY, fixed(2)))
    probabilities = [float(p) for p in reference.magnitudes(variance)[:60]]
    for beyond in range(int(5 * sqrt(variance))):
        expected = sum(probabilities[beyond:]) * MANY
        assert abs((samples >= beyond).sum() - expected) <= 4.5 * sqrt(expected) + 1


# -- wide noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [Fraction(1, 3), Fraction(5), Fraction(41), Fraction(5000)])
def test_bisection_finds_the_same_samples_as_comparing_with_every_threshold(variance):
    one, other = (SecureBits.from_key_for_tests(bytes(range(32))) for _ in range(2))
    found = draw_wide_gaussian(variance, 30_001, one)
    np.testing.assert_array_equal(found, draw_gaussian(variance, 30_001, other))
    assert one.take(16) == other.take(16), "from as many bytes"


def test_noise_as_wide_as_half_the_grid_is_a_discrete_gaussian():
    variance = Fraction(5_500_000)
    samples = draw_wide_gaussian(variance, 400_000, SecureBits()).astype(np.float64)
    thresholds = gaussian_thresholds(variance)[0]
    assert 13.0 < len(thresholds) / sqrt(variance) < 13.5, "privacy.shared_noise leaves room for 13.5 deviations"
    scaled = samples / sqrt(variance)
    assert abs(scaled.mean()) < 0.008  # 5 standard errors
    assert abs((scaled**2).mean() - 1) < 0.012
    assert abs((scaled**4).mean() - 3) < 0.08
    for distance, share in ((0.5, 0.6171), (1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert abs((np.abs(scaled) > distance).mean() - share) < 5 * sqrt(share / 400_000)
    assert abs((samples % 2).mean() - 0.5) < 0.004, "every integer is met, not every second one"
