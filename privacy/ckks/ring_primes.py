"""The primes of a ring."""

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
