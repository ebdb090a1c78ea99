"""Loops over residues modulo 31-bit primes, in 32-bit words. `ring.py` says what they mean and checks what they take.

Every residue is reduced, in [0, p) with 2^30 < p < 2^31, before and after each kernel. Reduction is min(x, x - p) on
wrapping words: x - p wraps round to more than x exactly when x < p. A product with a fixed factor w is Shoup's: with
w' = floor(2^32 w / p) and any v < 2^32, v w - floor(v w' / 2^32) p lies in [0, 2p) (Harvey, J. Symb. Comp. 60, 2014,
section 3), so that its low 32 bits are enough. Nothing branches on a residue, divides by or indexes with one.

The transforms are algorithms 1 and 2 of Longa and Naehrig (ePrint 2016/504). Stages whose partners lie closer together
than a vector register is long are done at once, eight neighbours at a time: singly, no compiler vectorises them.
"""

import numpy as np
import numpy.typing as npt

from privacy.ckks.compiled import kernel, part

Words = npt.NDArray[np.uint32]
SmallIntegers = npt.NDArray[np.int32]
_Word = np.uint32


@part
def _add(u: _Word, v: _Word, p: _Word) -> _Word:
    total = np.uint32(u + v)
    return min(total, np.uint32(total - p))


@part
def _subtract(u: _Word, v: _Word, p: _Word) -> _Word:
    difference = np.uint32(u - v)
    return min(difference, np.uint32(difference + p))


@part
def _multiply(v: _Word, factor: _Word, quotient: _Word, p: _Word) -> _Word:
    multiple = np.uint32((np.uint64(v) * np.uint64(quotient)) >> np.uint64(32))
    product = np.uint32(np.uint32(v * factor) - np.uint32(multiple * p))
    return min(product, np.uint32(product - p))


@part
def _lift(small: np.int32, p: _Word) -> _Word:
    return np.uint32(np.uint32(small) + (p & np.uint32(small >> 31)))  # the shift gives all ones if small < 0


@part
def _forward(u: _Word, v: _Word, root: _Word, quotient: _Word, p: _Word) -> tuple[_Word, _Word]:
    turned = _multiply(v, root, quotient, p)
    return _add(u, turned, p), _subtract(u, turned, p)


@part
def _inverse(u: _Word, v: _Word, root: _Word, quotient: _Word, p: _Word) -> tuple[_Word, _Word]:
    difference = np.uint32(np.uint32(u - v) + p)  # below 2p: a product need not have it reduced
    return _add(u, v, p), _multiply(difference, root, quotient, p)


@kernel
def forward_ntt(residues: Words, roots: Words, quotients: Words, primes: Words) -> None:
    """Coefficients -> values at the odd powers of the root, bit-reversed; in place, shape (primes, N), N >= 16."""
    count, degree = residues.shape
    for k in range(count):
        row, root, quotient, p = residues[k], roots[k], quotients[k], primes[k]
        groups, half = 1, degree // 2
        while half > 4:
            for group in range(groups):
                w, w_quotient, start = root[groups + group], quotient[groups + group], 2 * group * half
                left, right = row[start : start + half], row[start + half : start + 2 * half]
                for j in range(half):
                    left[j], right[j] = _forward(left[j], right[j], w, w_quotient, p)
            groups, half = 2 * groups, half // 2
        for i in range(degree // 8):
            a, b, c, d = row[8 * i], row[8 * i + 1], row[8 * i + 2], row[8 * i + 3]
            e, f, g, h = row[8 * i + 4], row[8 * i + 5], row[8 * i + 6], row[8 * i + 7]
            n = degree // 8 + i
            a, e = _forward(a, e, root[n], quotient[n], p)
            b, f = _forward(b, f, root[n], quotient[n], p)
            c, g = _forward(c, g, root[n], quotient[n], p)
            d, h = _forward(d, h, root[n], quotient[n], p)
            n = 2 * n
            a, c = _forward(a, c, root[n], quotient[n], p)
            b, d = _forward(b, d, root[n], quotient[n], p)
            e, g = _forward(e, g, root[n + 1], quotient[n + 1], p)
            f, h = _forward(f, h, root[n + 1], quotient[n + 1], p)
            n = 2 * n
            row[8 * i], row[8 * i + 1] = _forward(a, b, root[n], quotient[n], p)
            row[8 * i + 2], row[8 * i + 3] = _forward(c, d, root[n + 1], quotient[n + 1], p)
            row[8 * i + 4], row[8 * i + 5] = _forward(e, f, root[n + 2], quotient[n + 2], p)
            row[8 * i + 6], row[8 * i + 7] = _forward(g, h, root[n + 3], quotient[n + 3], p)


@kernel
def inverse_ntt(residues: Words, roots: Words, quotients: Words, primes: Words) -> None:
    """The inverse of `forward_ntt`, in place. `roots` are of the inverse; place 0, else unused, holds 1/N."""
    count, degree = residues.shape
    for k in range(count):
        row, root, quotient, p = residues[k], roots[k], quotients[k], primes[k]
        for i in range(degree // 8):
            n = degree // 2 + 4 * i
            a, b = _inverse(row[8 * i], row[8 * i + 1], root[n], quotient[n], p)
            c, d = _inverse(row[8 * i + 2], row[8 * i + 3], root[n + 1], quotient[n + 1], p)
            e, f = _inverse(row[8 * i + 4], row[8 * i + 5], root[n + 2], quotient[n + 2], p)
            g, h = _inverse(row[8 * i + 6], row[8 * i + 7], root[n + 3], quotient[n + 3], p)
            n = n // 2
            a, c = _inverse(a, c, root[n], quotient[n], p)
            b, d = _inverse(b, d, root[n], quotient[n], p)
            e, g = _inverse(e, g, root[n + 1], quotient[n + 1], p)
            f, h = _inverse(f, h, root[n + 1], quotient[n + 1], p)
            n = n // 2
            row[8 * i], row[8 * i + 4] = _inverse(a, e, root[n], quotient[n], p)
            row[8 * i + 1], row[8 * i + 5] = _inverse(b, f, root[n], quotient[n], p)
            row[8 * i + 2], row[8 * i + 6] = _inverse(c, g, root[n], quotient[n], p)
            row[8 * i + 3], row[8 * i + 7] = _inverse(d, h, root[n], quotient[n], p)
        groups, half = degree // 16, 8
        while groups:
            for group in range(groups):
                w, w_quotient, start = root[groups + group], quotient[groups + group], 2 * group * half
                left, right = row[start : start + half], row[start + half : start + 2 * half]
                for j in range(half):
                    left[j], right[j] = _inverse(left[j], right[j], w, w_quotient, p)
            groups, half = groups // 2, 2 * half
        for j in range(degree):
            row[j] = _multiply(row[j], root[0], quotient[0], p)


@kernel
def shoup_quotients(factors: Words, primes: Words, quotients: Words) -> None:
    """quotients = floor(2^32 factors / p), without the processor's division, whose time depends on what it divides.

    With c = floor(2^62 / p), floor(c w / 2^30) is at most 2 less than 2^32 w / p, so at most 2 less than its floor.
    """
    count, width = factors.shape
    for k in range(count):
        p = np.uint64(primes[k])
        reciprocal = np.uint64(1 << 62) // p
        for j in range(width):
            w = np.uint64(factors[k, j])
            quotient = (w * reciprocal) >> np.uint64(30)
            rest = (w << np.uint64(32)) - quotient * p
            quotients[k, j] = np.uint32(quotient + np.uint64(rest >= p) + np.uint64(rest >= p + p))


@kernel
def multiply(residues: Words, factors: Words, quotients: Words, primes: Words, out: Words) -> None:
    """out = residues * factors (mod p), place by place."""
    count, degree = residues.shape
    for k in range(count):
        p = primes[k]
        for j in range(degree):
            out[k, j] = _multiply(residues[k, j], factors[k, j], quotients[k, j], p)


@kernel
def add(total: Words, summand: Words, primes: Words) -> None:
    """total += summand (mod p)."""
    count, degree = total.shape
    for k in range(count):
        p = primes[k]
        for j in range(degree):
            total[k, j] = _add(total[k, j], summand[k, j], p)


@kernel
def subtract(total: Words, subtrahend: Words, primes: Words) -> None:
    """total -= subtrahend (mod p)."""
    count, degree = total.shape
    for k in range(count):
        p = primes[k]
        for j in range(degree):
            total[k, j] = _subtract(total[k, j], subtrahend[k, j], p)


@kernel
def lift(small: SmallIntegers, primes: Words, out: Words) -> None:
    """out = the residues of signed integers of magnitude below 2^30."""
    count, degree = out.shape
    for k in range(count):
        p = primes[k]
        for j in range(degree):
            out[k, j] = _lift(small[j], p)


@kernel
def subtract_from_small(small: SmallIntegers, residues: Words, primes: Words) -> None:
    """residues = small - residues (mod p), small as for `lift`."""
    count, degree = residues.shape
    for k in range(count):
        p = primes[k]
        for j in range(degree):
            residues[k, j] = _subtract(_lift(small[j], p), residues[k, j], p)


@kernel
def recombine(residues: Words, inverses: Words, quotients: Words, primes: Words, limbs: Words) -> None:
    """limbs = the 32-bit limbs, least first, of the value below p0 p1 ... that the residues stand for.

    `limbs` comes as zeros, shape (primes, N); `residues` are used up. `inverses[k, i]` is 1/p_i mod p_k. First Garner's
    digits, value = r0 + p0 (r1 + p1 (r2 + ...)), where r_i < p_i < 2 p_k; then Horner's rule from the last digit.
    """
    count, degree = residues.shape
    for k in range(1, count):
        p, digit = primes[k], residues[k]
        for i in range(k):
            earlier, w, w_quotient = residues[i], inverses[k, i], quotients[k, i]
            for j in range(degree):
                reduced = min(earlier[j], np.uint32(earlier[j] - p))
                digit[j] = _multiply(_subtract(digit[j], reduced, p), w, w_quotient, p)
    for k in range(count - 1, -1, -1):
        factor, carry = np.uint64(primes[k]), residues[k]
        for i in range(count - k):
            limb = limbs[i]
            for j in range(degree):
                value = np.uint64(limb[j]) * factor + np.uint64(carry[j])
                limb[j] = np.uint32(value)
                carry[j] = np.uint32(value >> np.uint64(32))
