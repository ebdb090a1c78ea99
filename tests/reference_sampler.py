"""What `ckks-multikey` draws, a second time from the text of its specification, in plain and slow Python integers.

It shares no code with `privacy.ckks` and makes tests/vectors/v1/sampler.json: `python -m tests.reference_sampler`.
"""

import hashlib
from bisect import bisect_right
from fractions import Fraction

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.reference_ring import SETS, primes_below, write

PRECISION = 1 << 500  # one, in fixed point


def keystream(key, count, start=0):
    """`count` bytes of AES-256-CTR from a counter of zero, block by block; `start` bytes are passed over."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = range(start // 16, -(-(start + count) // 16))
    stream = b"".join(encryptor.update(counter.to_bytes(16, "big")) for counter in blocks)
    return stream[start % 16 :][:count]


def exp_of_minus(x):
    """exp(-x) in fixed point, for a fraction x from 0 to 1, by its series."""
    total, term, n = 0, PRECISION, 0
    while term:
        total += term if n % 2 == 0 else -term
        n += 1
        term = term * x.numerator // (x.denominator * n)
    return total


def weights(variance):
    """exp(-x^2 / 2 variance) in fixed point, x = 0, 1, ... until it is nothing."""
    base = exp_of_minus(1 / (2 * variance))
    found = [PRECISION]
    step, square = base, base * base // PRECISION  # w(x + 1) = w(x) base^(2x + 1)
    while found[-1]:
        found.append(found[-1] * step // PRECISION)
        step = step * square // PRECISION
    return found


def magnitudes(variance):
    """P(|X| = x) as fractions."""
    found = weights(variance)
    doubled = [found[0], *(2 * weight for weight in found[1:])]
    return [Fraction(weight, sum(doubled)) for weight in doubled]


def thresholds(variance):
    reached, found = Fraction(0), []
    for probability in magnitudes(variance):
        reached += probability
        found.append(round(reached * 2**128))
        if found[-1] == 2**128:
            return found[:-1]
    raise AssertionError


def gaussian(variance, count, stream):
    """Samples from the keystream bytes `stream`: high halves, low halves, signs."""
    table, samples = thresholds(variance), []
    for i in range(count):
        high = int.from_bytes(stream[8 * i : 8 * i + 8], "little")
        low = int.from_bytes(stream[8 * (count + i) : 8 * (count + i) + 8], "little")
        magnitude = bisect_right(table, high << 64 | low)
        minus = stream[16 * count + i // 8] >> (i % 8) & 1
        samples.append(-magnitude if minus else magnitude)
    return samples


def seed_of(label, *parts):
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in (label.encode(), *parts))
    return hashlib.shake_256(framed).digest(32)


def uniform(seed, prime, count):
    found, start = [], 0
    while len(found) < count:
        word = int.from_bytes(keystream(seed, 4, start), "little") % 2**31
        found += [word] if word < prime else []
        start += 4
    return found


def common_row(ctx, block, prime, count):
    """The first residues modulo a prime of a_k in NTT form."""
    label = "cloister/v1/ckks-multikey/a"
    return uniform(seed_of(label, ctx, block.to_bytes(8, "big"), prime.to_bytes(8, "big")), prime, count)


def sampler_vectors():
    key, ctx = bytes(range(32)), hashlib.sha256(b"a round").digest()
    gaussians = [
        {
            "variance": str(variance),
            "thresholds": [f"{threshold:032x}" for threshold in thresholds(variance)],
            "keystream_key": key.hex(),
            "samples": gaussian(variance, 50, keystream(key, 16 * 50 + 7)),
        }
        for variance in (Fraction(81, 4), Fraction(81, 2))
    ]
    seed = seed_of("test", b"one", b"")
    uniforms = [
        {"label": "test", "parts": ["6f6e65", ""], "seed": seed.hex(), "prime": p, "residues": uniform(seed, p, 60)}
        for p in (1073741827, 2147377153)
    ]
    commons = [
        {
            "ctx": ctx.hex(),
            "block": block,
            "degree": degree,
            "prime": prime,
            "first": (row := common_row(ctx, block, prime, degree))[:4],
            "sha256": hashlib.sha256(b"".join(residue.to_bytes(4, "little") for residue in row)).hexdigest(),
        }
        for block, degree, index in ((0, 4096, 0), (1, 4096, 2), (12207, 8192, 5), (2**40, 16384, 12))
        for prime in [primes_below(1 << 31, degree, SETS[degree])[index]]
    ]
    return {"gaussian": gaussians, "uniform": uniforms, "common": commons}


if __name__ == "__main__":
    write("sampler.json", sampler_vectors())
