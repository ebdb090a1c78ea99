"""The roots of unity of a ring, in the order SEAL's transforms use them."""

import numpy as np
import numpy.typing as npt


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
