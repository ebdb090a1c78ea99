"""Polynomials of the suite `ckks-multikey`: Z_Q[X]/(X^N + 1), Q a product of 31-bit primes (round-protocol.md).

A polynomial is an array of shape (primes, N), uint32, each row reduced modulo its prime: its coefficients, lowest
first, or its NTT form, the values at the odd powers of the smallest primitive 2N-th root of unity in bit-reversed
order. Both are SEAL's conventions, so that SEAL's own decryptor opens our ciphertexts
(tests/integration/test_ckks_ring_in_seal.py).

How far it is constant-time: the kernels that touch a key or noise have no branch, no table index and no division that
depends on either, so what they execute and which memory they touch is the same for every key. They are written so, and
in the machine code that numba 0.68 makes for x86-64 every conditional jump is on a length or an address; but neither
numba nor LLVM promises that, processors do not promise that every operand takes the same time, and Python erases
nothing: keys and noise stay in freed memory until it is used again. Who runs code on a silo's machine is outside what
the suite defends against.

Kernels are compiled when first called (seconds, once a machine; see compiled.py): a program calls `warm_up` at start.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from privacy.ckks import ring_kernels as kernels
from privacy.ckks.ring_kernels import SmallIntegers, Words
from privacy.ckks.ring_primes import PRIME_COUNTS, WORD_BITS, is_prime, ntt_primes
from privacy.ckks.ring_tables import pair_inverses, root_tables
from privacy.errors import InternalError

SMALL_LIMIT = 1 << (WORD_BITS - 1)  # magnitudes below this lift to residues of every prime
_DEGREES = [1 << log for log in range(4, 16)]


@dataclass(frozen=True, eq=False)
class Multiplier:
    """A small polynomial, ready to multiply others by it. As secret as what it was made from."""

    _factors: Words = field(repr=False)
    _quotients: Words = field(repr=False)


class Ring:
    """Z_Q[X]/(X^N + 1) for degree N and Q the product of `primes`. Immutable, and safe to use from several threads.

    Raises InternalError unless N is a power of two from 16 to 32768 and the primes are different, prime, between 2^30
    and 2^31, and 1 mod 2N. Every method raises InternalError on an array of another type, shape or memory layout; none
    checks that residues are reduced (residues.py does), and of residues that are not the results mean nothing.
    """

    def __init__(self, degree: int, primes: tuple[int, ...]) -> None:
        fit = all(p >> (WORD_BITS - 1) == 1 and p % (2 * degree) == 1 and is_prime(p) for p in primes)
        if degree not in _DEGREES or not primes or len(set(primes)) != len(primes) or not fit:
            raise InternalError("ring", f"degree {degree} and these primes make none", "Report this.")
        self.degree = degree
        self.primes = primes
        self.shape = (len(primes), degree)
        self._moduli = np.array(primes, np.uint32)
        self._roots, self._inverse_roots = root_tables(degree, primes)
        self._root_quotients = self._quotients(self._roots)
        self._inverse_root_quotients = self._quotients(self._inverse_roots)
        self._pair_inverses = pair_inverses(primes)
        self._pair_quotients = self._quotients(self._pair_inverses)

    def _quotients(self, factors: Words) -> Words:
        quotients = np.empty_like(factors)
        kernels.shoup_quotients(factors, self._moduli, quotients)
        return quotients

    def _check(self, *polynomials: Words) -> None:
        for array in polynomials:
            # Read-only arrays are another type to numba: it would compile every kernel again for them.
            usable = array.flags.c_contiguous and array.flags.writeable
            if array.dtype != np.uint32 or array.shape != self.shape or not usable:
                why = f"{array.dtype} of shape {array.shape}, expected writable uint32 of shape {self.shape} in rows"
                raise InternalError("ring polynomial", why, "Report this.")

    def _check_small(self, small: SmallIntegers) -> None:
        usable = small.dtype == np.int32 and small.shape == (self.degree,)
        if not (usable and small.flags.c_contiguous and small.flags.writeable):
            raise InternalError("small polynomial", f"is not writable int32 of shape ({self.degree},)", "Report this.")
        if small.max() >= SMALL_LIMIT or small.min() <= -SMALL_LIMIT:
            raise InternalError("small polynomial", "has a coefficient of 2^30 or more", "Report this.")

    def to_ntt(self, residues: Words) -> None:
        """Coefficients -> NTT form, in place."""
        self._check(residues)
        kernels.forward_ntt(residues, self._roots, self._root_quotients, self._moduli)

    def from_ntt(self, residues: Words) -> None:
        """NTT form -> coefficients, in place."""
        self._check(residues)
        kernels.inverse_ntt(residues, self._inverse_roots, self._inverse_root_quotients, self._moduli)

    def lift(self, small: SmallIntegers) -> Words:
        """The residues of signed coefficients, int32 of shape (N,), each of magnitude below 2^30."""
        self._check_small(small)
        residues = np.empty(self.shape, np.uint32)
        kernels.lift(small, self._moduli, residues)
        return residues

    def multiplier(self, small: SmallIntegers) -> Multiplier:
        """A polynomial of signed coefficients, as for `lift`, made ready to multiply by."""
        factors = self.lift(small)
        self.to_ntt(factors)
        return Multiplier(factors, self._quotients(factors))

    def multiply(self, residues: Words, multiplier: Multiplier) -> Words:
        """The product of a polynomial in NTT form and a multiplier, in NTT form."""
        self._check(residues)
        product = np.empty(self.shape, np.uint32)
        kernels.multiply(residues, multiplier._factors, multiplier._quotients, self._moduli, product)  # noqa: SLF001
        return product

    def product(self, residues: Words, multiplier: Multiplier) -> Words:
        """The coefficients of the product of a polynomial in NTT form and a multiplier: a S, when a sum is opened."""
        product = self.multiply(residues, multiplier)
        self.from_ntt(product)
        return product

    def mask(self, uniform: Words, key: Multiplier, noise: SmallIntegers) -> Words:
        """The coefficients of e - a s: `uniform` a in NTT form, `key` s, `noise` e as for `lift`.

        A mask hides one polynomial once. Two masks of one a and s differ by noise alone, and give both away.
        """
        self._check_small(noise)
        mask = self.product(uniform, key)
        kernels.subtract_from_small(noise, mask, self._moduli)
        return mask

    def add(self, total: Words, summand: Words) -> None:
        """total += summand, in place; both in one form."""
        self._check(total, summand)
        kernels.add(total, summand, self._moduli)

    def subtract(self, total: Words, subtrahend: Words) -> None:
        """total -= subtrahend, in place; both in one form."""
        self._check(total, subtrahend)
        kernels.subtract(total, subtrahend, self._moduli)

    def limbs(self, coefficients: Words) -> Words:
        """Each coefficient as an integer in [0, Q): its 32-bit limbs, least first, shape (primes, N)."""
        self._check(coefficients)
        limbs = np.zeros(self.shape, np.uint32)
        kernels.recombine(coefficients.copy(), self._pair_inverses, self._pair_quotients, self._moduli, limbs)
        return limbs


@cache
def ring_of(degree: int) -> Ring:
    """The suite's ring of degree 4096, 8192 or 16384, made once a process. Raises InternalError on another degree."""
    if degree not in PRIME_COUNTS:
        raise InternalError("ring", f"the suite has none of degree {degree}", "Report this.")
    return Ring(degree, ntt_primes(degree, PRIME_COUNTS[degree]))


def warm_up(ring: Ring) -> None:
    """Compile every kernel of this module or load it, so that no round waits for it later."""
    small = np.zeros(ring.degree, np.int32)
    mask = ring.mask(ring.lift(small), ring.multiplier(small), small)
    ring.add(mask, ring.lift(small))
    ring.subtract(mask, ring.lift(small))
    ring.limbs(mask)
