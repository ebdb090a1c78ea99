"""A ternary CKKS secret: 1,024 bytes of coefficients <-> the NTT form SEAL keeps it in.

Two bits a coefficient, four to a byte, lowest bits first: 0, 1, and 2 for -1; 3 is no secret. Mailing coefficients
rather than a SEAL object means that a receiver parses nothing of SEAL's and sees that the key is a ternary one.

The transform is the negacyclic one of Longa and Naehrig (ePrint 2016/504, algorithms 1 and 2) in SEAL's order: powers
of the smallest primitive 2N-th root of unity, output bit-reversed. Once a round, so Python integers are quick enough.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from privacy.ckks.params import DEGREE, PRIME
from privacy.errors import InternalError, ProtocolError

SECRET_BYTES = DEGREE // 4
_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)
_BITS = DEGREE.bit_length() - 1

Integers = npt.NDArray[np.object_]


@cache
def _roots() -> tuple[Integers, Integers]:
    """Powers of the smallest primitive 2N-th root of unity modulo p, and of its inverse, at bit-reversed places."""
    candidates = (pow(base, (PRIME - 1) // (2 * DEGREE), PRIME) for base in range(2, 1000))
    root = next(value for value in candidates if pow(value, DEGREE, PRIME) == PRIME - 1)
    powers = [root]
    for _ in range(2 * DEGREE - 1):
        powers.append(powers[-1] * root % PRIME)
    smallest = min(powers[::2])  # the odd powers are the primitive roots
    inverse = pow(smallest, -1, PRIME)
    forward, backward = np.empty(DEGREE, object), np.empty(DEGREE, object)
    one, two = 1, 1
    for exponent in range(DEGREE):
        place = int(f"{exponent:0{_BITS}b}"[::-1], 2)
        forward[place], backward[place] = one, two
        one, two = one * smallest % PRIME, two * inverse % PRIME
    return forward, backward


def _to_ntt(coefficients: Integers) -> Integers:
    values, (roots, _) = coefficients.copy(), _roots()
    groups, half = 1, DEGREE // 2
    while half:
        pairs = values.reshape(groups, 2, half)
        turned = pairs[:, 1] * roots[groups : 2 * groups, None] % PRIME
        values = np.stack(((pairs[:, 0] + turned) % PRIME, (pairs[:, 0] - turned) % PRIME), axis=1).ravel()
        groups, half = groups * 2, half // 2
    return values


def _from_ntt(residues: Integers) -> Integers:
    values, (_, roots) = residues.copy(), _roots()
    groups, half = DEGREE // 2, 1
    while groups:
        pairs = values.reshape(groups, 2, half)
        difference = (pairs[:, 0] - pairs[:, 1]) * roots[groups : 2 * groups, None] % PRIME
        values = np.stack(((pairs[:, 0] + pairs[:, 1]) % PRIME, difference), axis=1).ravel()
        groups, half = groups // 2, half * 2
    scaled: Integers = values * pow(DEGREE, -1, PRIME) % PRIME
    return scaled


def check_secret(secret: bytes) -> npt.NDArray[np.uint8]:
    """The digits of an encoded secret, shape (4096,). Raises ProtocolError on bytes that encode none."""
    if len(secret) != SECRET_BYTES:
        why = f"has {len(secret)} bytes, expected {SECRET_BYTES}"
        raise ProtocolError("cohort key", why, "The dealer must deal a key again.")
    digits = (np.frombuffer(secret, np.uint8)[:, None] >> _SHIFTS) & 3
    if (digits == 3).any() or not digits.any():
        raise ProtocolError("cohort key", "is not an encoded ternary secret", "The dealer must deal a key again.")
    return digits.ravel().astype(np.uint8, copy=False)


def secret_to_residues(secret: bytes) -> npt.NDArray[np.uint64]:
    """The NTT residues of an encoded secret, shape (4096,). Raises ProtocolError on bytes that encode none."""
    return _to_ntt(np.array([0, 1, PRIME - 1], object)[check_secret(secret)]).astype(np.uint64)


def residues_to_secret(residues: npt.NDArray[np.uint64]) -> bytes:
    """The 1,024 bytes of a ternary secret in NTT form. Raises InternalError if it is not ternary."""
    coefficients = _from_ntt(residues.astype(object))
    minus = coefficients == PRIME - 1
    if not (minus | (coefficients <= 1)).all():
        raise InternalError("cohort key", "SEAL made a secret that is not ternary", "Report this; no key was dealt.")
    digits = np.where(minus, 2, coefficients).astype(np.uint8)
    packed = digits.reshape(-1, 4) << _SHIFTS
    encoded: bytes = np.bitwise_or.reduce(packed, axis=1).astype(np.uint8).tobytes()
    return encoded
