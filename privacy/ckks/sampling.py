"""Secret randomness of the suite `ckks-multikey`: a keystream, discrete Gaussian keys and noise, and noise on updates.

Sampling is by inversion: a uniform 128-bit integer u is compared with every threshold of a table; the magnitude is the
number of thresholds u reaches, and one more bit is its sign. Threshold x is 2^128 P(|X| <= x), rounded; the table ends
where that rounds to 2^128. What is sampled is not exactly Gaussian: each threshold is off by at most 2^-129, so each
magnitude's probability by 2^-128, and what lies beyond the table weighs less than 2^-128. With at most 85 magnitudes
the statistical distance of one sample is below 2^-122; of the 2^25 samples of a round of 10^8 values, below 2^-97.

No comparison is skipped and the order never changes; see ring.py for how far that makes it constant-time.

The noise of shared DP mechanisms is thousands of times wider. There the same thresholds are found by bisection, with as
many comparisons for every sample and no branch; which entries are read depends on the sample. It is what an update is
noised with, not what it is encrypted with. With up to 2^15 magnitudes a sample's statistical distance is below 2^-112.
"""

import os
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.ckks.compiled import kernel
from privacy.errors import InternalError

_DIGITS = 80  # of the decimals that thresholds are computed with; 2^128 has 39

Thresholds = npt.NDArray[np.uint64]


class SecureBits:
    """A stream of secret uniform bytes: AES-256-CTR under a fresh key of the operating system.

    For one thread. A process that was forked has its parent's keystream: there `take` raises InternalError, since the
    same key or noise drawn twice gives updates away.
    """

    def __init__(self) -> None:
        self._start(os.urandom(32))

    def _start(self, key: bytes) -> None:
        self._process = os.getpid()
        self._keystream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def from_key_for_tests(cls, key: bytes) -> "SecureBits":
        """The stream of a known key of 32 bytes. Nothing drawn from it is secret."""
        bits = cls()
        bits._start(key)
        return bits

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the keystream."""
        if os.getpid() != self._process:
            raise InternalError("keystream", "is a parent process's", "Report this; nothing was drawn.")
        return self._keystream.update(bytes(count))


@cache
def gaussian_thresholds(variance: Fraction) -> tuple[Thresholds, Thresholds]:
    """High and low 64 bits of round(2^128 P(|X| <= x)), x = 0, 1, ..., for P(X = x) ~ exp(-x^2 / 2 variance)."""
    with localcontext(Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN)):
        rate = Decimal(-variance.denominator) / Decimal(2 * variance.numerator)
        weights = [Decimal(1)]
        while weights[-1] > Decimal(10) ** -_DIGITS:
            weights.append(2 * (rate * len(weights) ** 2).exp())
        total, reached, thresholds = sum(weights), Decimal(0), []
        for weight in weights:
            reached += weight
            threshold = int((reached / total * 2**128).to_integral_value())
            if threshold == 2**128:
                break
            thresholds.append(threshold)
    high, low = ([threshold >> shift & (2**64 - 1) for threshold in thresholds] for shift in (64, 0))
    return np.array(high, np.uint64), np.array(low, np.uint64)


@kernel
def _invert(
    high: Thresholds,
    low: Thresholds,
    signs: npt.NDArray[np.uint8],
    high_thresholds: Thresholds,
    low_thresholds: Thresholds,
    samples: npt.NDArray[np.int32],
) -> None:
    for i in range(samples.shape[0]):
        magnitude = np.uint64(0)
        for t in range(high_thresholds.shape[0]):
            # u >= threshold without a branch; the high half of a threshold is never 0
            borrowed = np.uint64(high_thresholds[t] - np.uint64(low[i] >= low_thresholds[t]))
            magnitude += np.uint64(high[i] > borrowed)
        sign = np.int32((signs[i >> 3] >> (i & 7)) & 1)
        samples[i] = (np.int32(magnitude) ^ -sign) + sign


@kernel
def _bisect(
    high: Thresholds,
    low: Thresholds,
    signs: npt.NDArray[np.uint8],
    high_thresholds: Thresholds,
    low_thresholds: Thresholds,
    first_step: int,
    samples: npt.NDArray[np.int32],
) -> None:
    last = high_thresholds.shape[0] - 1
    for i in range(samples.shape[0]):
        magnitude = np.int64(0)  # of so many thresholds it is known that u reaches them
        step = np.int64(first_step)
        while step > 0:
            t = min(magnitude + step - 1, last)
            borrowed = np.uint64(high_thresholds[t] - np.uint64(low[i] >= low_thresholds[t]))
            magnitude += step * (np.int64(high[i] > borrowed) & np.int64(magnitude + step - 1 <= last))
            step >>= 1
        sign = np.int32((signs[i >> 3] >> (i & 7)) & 1)
        samples[i] = (np.int32(magnitude) ^ -sign) + sign


def draw_gaussian(variance: Fraction, count: int, bits: SecureBits) -> npt.NDArray[np.int32]:
    """`count` independent samples of the discrete Gaussian on the integers: P(X = x) ~ exp(-x^2 / 2 variance).

    Takes from `bits` the high halves of u for all samples, 8 bytes little-endian each, then the low halves, then
    ceil(count / 8) bytes of signs, lowest bit first; 1 is minus.
    """
    samples = np.empty(count, np.int32)
    _invert(*_uniform(count, bits), *gaussian_thresholds(variance), samples)
    return samples


def draw_wide_gaussian(variance: Fraction, count: int, bits: SecureBits) -> npt.NDArray[np.int32]:
    """The same samples as `draw_gaussian` from the same bytes, for variances up to about 10^7 (a table made once)."""
    thresholds = gaussian_thresholds(variance)
    first_step = 1 << (len(thresholds[0]).bit_length() - 1)
    samples = np.empty(count, np.int32)
    _bisect(*_uniform(count, bits), *thresholds, first_step, samples)
    return samples


def _uniform(count: int, bits: SecureBits) -> tuple[Thresholds, Thresholds, npt.NDArray[np.uint8]]:
    """High and low halves of `count` uniform 128-bit integers, and as many bits."""
    high = np.frombuffer(bits.take(8 * count), "<u8")
    low = np.frombuffer(bits.take(8 * count), "<u8")
    return high, low, np.frombuffer(bits.take(-(-count // 8)), np.uint8)
