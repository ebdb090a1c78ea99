"""The ring of `ckks-multikey` a second time, from its definitions, in plain and slow Python integers.

It shares no code with `privacy.ckks` and makes tests/vectors/v1/ring.json: `python -m tests.reference_ring`.
"""

import json
import random
from math import isqrt, prod
from pathlib import Path

VECTORS = Path(__file__).parent / "vectors" / "v1"
SETS = {4096: 3, 8192: 6, 16384: 13}


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def primes_below(limit, degree, count):
    """The `count` greatest primes below `limit` that are 1 mod 2N, greatest first, by trial division."""
    found, number = [], (limit - 2) // (2 * degree) * (2 * degree) + 1
    while len(found) < count:
        if is_prime(number):
            found.append(number)
        number -= 2 * degree
    return found


def smallest_root(degree, prime):
    """The least x with x^N = -1: all such x are the odd powers of any one of them."""
    candidates = (pow(base, (prime - 1) // (2 * degree), prime) for base in range(2, prime))
    root = next(x for x in candidates if pow(x, degree, prime) == prime - 1)
    return min(pow(root, exponent, prime) for exponent in range(1, 2 * degree, 2))


def reversed_bits(index, degree):
    return int(f"{index:0{degree.bit_length() - 1}b}"[::-1], 2)


def value_at(coefficients, place, root, prime):
    """Place `place` of the NTT form: the polynomial's value at root^(2 r + 1), r the reversed bits of the place."""
    point = pow(root, 2 * reversed_bits(place, len(coefficients)) + 1, prime)
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % prime
    return value


def ntt(coefficients, root, prime):
    return [value_at(coefficients, place, root, prime) for place in range(len(coefficients))]


def schoolbook(first, second):
    """The product modulo X^N + 1, over the integers."""
    degree = len(first)
    product = [0] * degree
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            sign = 1 if i + j < degree else -1
            product[(i + j) % degree] += sign * a * b
    return product


def kronecker(first, second):
    """`schoolbook` by one multiplication of long integers, for coefficients from 0 to 2^31 and N <= 2^18."""
    degree, width = len(first), 10  # bytes: room for N products of 62 bits
    one, two = (int.from_bytes(b"".join(c.to_bytes(width, "little") for c in p), "little") for p in (first, second))
    data = (one * two).to_bytes(2 * degree * width, "little")
    full = [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(2 * degree)]
    return [full[i] - full[degree + i] for i in range(degree)]


def combine(residues, primes):
    """The integer in [0, Q) with these residues (Chinese remainders)."""
    modulus = prod(primes)
    return sum(r * (modulus // p) * pow(modulus // p, -1, p) for r, p in zip(residues, primes, strict=True)) % modulus


def limbs_of(value, count):
    return [value >> (32 * i) & 0xFFFFFFFF for i in range(count)]


def product_vector():
    """Two polynomials of degree 16, all that is done with them on the way to e - a s, and its limbs."""
    chosen, degree, primes = random.Random(20), 16, primes_below(1 << 31, 16, 3)
    roots = [smallest_root(degree, prime) for prime in primes]
    a, s, e = ([chosen.randrange(-bound, bound + 1) for _ in range(degree)] for bound in (1 << 29, 60, 90))
    mask = [x - y for x, y in zip(e, schoolbook(a, s), strict=True)]
    residues = [[value % prime for value in mask] for prime in primes]
    return {
        "degree": degree,
        "primes": primes,
        "a": a,
        "a_ntt": [ntt(a, root, prime) for root, prime in zip(roots, primes, strict=True)],
        "s": s,
        "e": e,
        "mask": residues,
        "mask_limbs": [limbs_of(combine(column, primes), 3) for column in zip(*residues, strict=True)],
    }


def ring_vectors():
    rings = []
    for degree, count in SETS.items():
        primes = primes_below(1 << 31, degree, count)
        rings.append({"degree": degree, "primes": primes, "roots": [smallest_root(degree, p) for p in primes]})
    return {"rings": rings, "products": [product_vector()]}


def write(name, vectors):
    VECTORS.mkdir(parents=True, exist_ok=True)
    (VECTORS / name).write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    write("ring.json", ring_vectors())
