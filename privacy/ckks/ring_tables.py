"""The public constants of a ring: its primes, and the roots of unity in the order SEAL's transforms use them."""

import numpy as np
import numpy.typing as npt

from privacy.errors import InternalError

WORD_BITS = 31  # of a residue: primes lie between 2^30 and 2^31
PRIME_COUNTS = {4096: 3, 8192: 6, 16384: 13}  # by degree: the sets of the suite
_BASES = (2, 3, 5, 7)  # decide every number below 3,215,031,751 (Jaeschke, Math. Comp. 61, 1993)


def is_prime(number: int) -> bool:
    """By Miller and Rabin's test, which is exact for the numbers below 2^31 that it is used on."""
    if number < 11:
        return number in _BASES
    exponent, twos = number - 1, 0
    while exponent % 2 == 0:
        exponent, twos = exponent // 2, twos + 1
    return all(_passes(number, base, exponent, twos) for base in _BASES)


def _passes(number: int, base: int, exponent: int, twos: int) -> bool:
    power = pow(base, exponent, number)
    return power == 1 or any(pow(power, 1 << square, number) == number - 1 for square in range(twos))


def ntt_primes(degree: int, count: int) -> tuple[int, ...]:
    """The `count` largest primes below 2^31 that are 1 mod 2N, in descending order.

    Raises InternalError if there are not so many above 2^30.
    """
    step = 2 * degree
    candidates = range((1 << WORD_BITS) - step + 1, 1 << (WORD_BITS - 1), -step)
    primes = [number for number, _ in zip((n for n in candidates if is_prime(n)), range(count), strict=False)]
    if len(primes) < count:
        raise InternalError("ring primes", f"there are not {count} for degree {degree}", "Report this.")
    return tuple(primes)


def _powers(root: int, degree: int, prime: int) -> npt.NDArray[np.uint64]:
    """root^e at the place whose log2(N) bits are those of e reversed, e = 0 to N - 1."""
    table = np.ones(degree, np.uint64)
    filled = 1
    while filled < degree:
        step = np.uint64(pow(root, degree // (2 * filled), prime))
        table[filled : 2 * filled] = table[:filled] * step % np.uint64(prime)
        filled *= 2
    return table


def smallest_root(degree: int, prime: int) -> int:
    """The smallest primitive 2N-th root of unity modulo a prime that is 1 mod 2N: the one SEAL takes."""
    candidates = (pow(base, (prime - 1) // (2 * degree), prime) for base in range(2, prime))
    root = next(candidate for candidate in candidates if pow(candidate, degree, prime) == prime - 1)
    odd = _powers(root, degree, prime)[degree // 2 :]  # reversed bits: the odd exponents are the second half
    return min(int(odd.min()), prime - int(odd.max()))  # root^(e + N) = -root^e


def root_tables(degree: int, primes: tuple[int, ...]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Powers of each prime's smallest root and of its inverse, bit-reversed, each of shape (primes, N).

    Place 0 of the inverse powers, which no butterfly uses, holds 1/N.
    """
    roots = [smallest_root(degree, prime) for prime in primes]
    forward = [_powers(root, degree, prime) for root, prime in zip(roots, primes, strict=True)]
    inverse = [_powers(pow(root, -1, prime), degree, prime) for root, prime in zip(roots, primes, strict=True)]
    for table, prime in zip(inverse, primes, strict=True):
        table[0] = pow(degree, -1, prime)
    return np.array(forward, np.uint32), np.array(inverse, np.uint32)


def pair_inverses(primes: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    """1/p_i mod p_k at [k, i] for i < k, and 0 elsewhere."""
    table = np.zeros((len(primes), len(primes)), np.uint32)
    for k, prime in enumerate(primes):
        table[k, :k] = [pow(earlier, -1, prime) for earlier in primes[:k]]
    return table
