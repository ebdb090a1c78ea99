"""Shamir sharing of one-time keys over F_65521 (round-protocol.md, "Suite ckks-multikey", steps 1, 6 and 7).

Every coefficient of a key is the constant term of its own uniform polynomial of degree t - 1; participant x, counted
from 1, holds the values at x. Any t shares give the key, t - 1 are uniform and say nothing about it (Shamir, How to
share a secret, CACM 1979). The sum over U of the shares at x is a share of the sum of the keys, with the same t.

Vectors have any length N. A share is N values below p, on the wire 2 bytes each, little-endian. Products of matrices
modulo p are exact in float64: entries are below 2^16 and up to 2^21 of them are added, so no partial sum reaches
2^53, in whatever order BLAS adds. Dealing runs the same instructions whatever the key; only rejected words of the
randomness, which go nowhere, change its running time. Python cannot promise that no copy of a key stays in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import comb, prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from privacy.errors import InternalError, ProtocolError, VerificationError

Share = npt.NDArray[np.uint16]
RandomBytes = Callable[[int], bytes]
_Matrix = npt.NDArray[np.uint16]

FIELD = 65_521  # p, the largest prime below 2^16
COEFFICIENT_BYTES = 2
LARGEST = FIELD // 2  # |x| up to here survives the way into the field and back
CHECKS = 5  # random combinations of find_wrong
MOST_SETS = 5_000  # of t shares out of m, that `candidates` tries

_MAX_TERMS = 1 << 21
_REPORT = "Report this; nothing was opened."


class Opened(NamedTuple):
    """A sum of keys, shape (N,), and the points whose shares were wrong and played no part in it."""

    total: npt.NDArray[np.int32]
    wrong: tuple[int, ...]


def _reduce(values: npt.NDArray[np.uint64]) -> _Matrix:
    """Values below 2^53 modulo p, in constant time; `values` is used up. 2^16 = 15 mod p: 53 bits, 41, 29, 18, 17."""
    spare = np.empty_like(values)
    for _ in range(4):
        np.right_shift(values, 16, out=spare)
        spare *= 15
        values &= 0xFFFF
        values += spare
    np.subtract(values, FIELD, out=spare)  # wraps round to more than the value exactly when it is below p
    return np.minimum(values, spare).astype(np.uint16)


def _multiply(left: npt.NDArray[np.uint16], right: npt.NDArray[np.uint16]) -> _Matrix:
    """The product of two matrices modulo p."""
    if left.shape[1] > _MAX_TERMS:
        raise InternalError("shares", f"sums of {left.shape[1]} products", _REPORT)
    return _reduce((left.astype(np.float64) @ right.astype(np.float64)).astype(np.uint64))


def _powers(points: Sequence[int], count: int) -> _Matrix:
    """x^0 to x^(count - 1) modulo p, one row a point."""
    return np.array([[pow(x, k, FIELD) for k in range(count)] for x in points], np.uint16).reshape(len(points), count)


def _factors(points: Sequence[int]) -> list[int]:
    """1 / prod over j != i of (x_i - x_j), modulo p, for each i."""
    return [pow(prod(x - other for other in points if other != x), -1, FIELD) for x in points]


def _uniform(count: int, random_bytes: RandomBytes) -> _Matrix:
    """`count` uniform field elements: the stream's 16-bit little-endian words in order, without those from p up."""
    words = np.empty(0, "<u2")
    while missing := count - len(words):
        drawn = np.frombuffer(random_bytes(COEFFICIENT_BYTES * missing), "<u2")
        words = np.concatenate((words, drawn[drawn < FIELD]))
    return words.astype(np.uint16, copy=False)


def _check_points(points: Sequence[int], threshold: int) -> None:
    if len(set(points)) != len(points) or not all(0 < x < FIELD for x in points):
        raise InternalError("shares", f"points {list(points)} are not distinct and from 1 to {FIELD - 1}", _REPORT)
    if not 1 <= threshold <= len(points):
        raise InternalError("shares", f"{len(points)} points and a threshold of {threshold}", _REPORT)


def share(secret: npt.NDArray[np.int32], threshold: int, points: Sequence[int], random_bytes: RandomBytes) -> _Matrix:
    """Shares of a secret of shape (N,): row i, of shape (N,), is for `points[i]`; any `threshold` rows give it back.

    `random_bytes(n)` returns the next n bytes of a secret, uniform stream: (threshold - 1) * N field elements are
    drawn, the coefficients of x^1 for all of the secret first. Raises InternalError on points that are zero or equal,
    an impossible threshold, or a coefficient beyond +-32760.
    """
    _check_points(points, threshold)
    if secret.ndim != 1 or ((secret < -LARGEST) | (secret > LARGEST)).any():
        raise InternalError("shares", "the secret is not a vector of small coefficients", _REPORT)
    constant = _reduce((secret.astype(np.int64) + FIELD).astype(np.uint64))
    higher = _uniform((threshold - 1) * len(secret), random_bytes).reshape(threshold - 1, len(secret))
    return _multiply(_powers(points, threshold), np.vstack((constant, higher)))


def encode_share(values: Share) -> bytes:
    """The bytes of one share, or of a sum of shares: 2 a coefficient, little-endian."""
    return values.astype("<u2", copy=False).tobytes()


def check_share(data: bytes, length: int, *, sender: str, step: str) -> Share:
    """The `length` values of an encoded share, or sum of shares: a read-only view of `data`, all below p.

    Raises ProtocolError, naming sender and step, on bytes that are truncated, oversized or not reduced.
    """
    expected = COEFFICIENT_BYTES * length
    next_step = "It does not count; the sender must send the stored bytes of its one share."
    if len(data) != expected:
        kind = "truncated" if len(data) < expected else "oversized"
        why = f"is {kind}: {len(data)} bytes, expected {expected}"
        raise ProtocolError(f"share of {sender}", why, next_step, sender=sender, step=step)
    values = np.frombuffer(data, "<u2").astype(np.uint16, copy=False)
    if (values >= FIELD).any():
        why = f"coefficient {int((values >= FIELD).argmax())} is not reduced modulo {FIELD}"
        raise ProtocolError(f"share of {sender}", why, next_step, sender=sender, step=step)
    return values


def add_shares(shares: Sequence[Share]) -> Share:
    """The sum modulo p of shares at one point, shape (N,): what a participant releases for the members of U.

    Raises InternalError on no shares, or shares of different lengths.
    """
    if not shares or len({values.shape for values in shares}) != 1:
        raise InternalError("shares", "to be added differ in length, or there are none", _REPORT)
    return _reduce(np.sum(shares, axis=0, dtype=np.uint64))


def _stack(shares: Mapping[int, Share], threshold: int) -> tuple[list[int], _Matrix]:
    points = sorted(shares)
    _check_points(points, threshold)
    if len({shares[x].shape for x in points}) != 1:
        raise InternalError("shares", "differ in length", _REPORT)
    return points, np.stack([shares[x] for x in points])


def reconstruct(shares: Mapping[int, Share], threshold: int, bound: int) -> npt.NDArray[np.int32]:
    """The sum of keys, shape (N,), centred on 0, from the released sums at exactly `threshold` points.

    Nothing among t shares shows whether one is wrong. `bound`, the largest |S_k| that honest keys reach, finds damage;
    a wrong share made to move the sum a little passes it, and the bound on the noise is to catch that one. Raises
    VerificationError beyond the bound, InternalError on another number of shares.
    """
    points, rows = _stack(shares, threshold)
    if len(points) != threshold or not 0 <= bound <= LARGEST:
        why = f"{len(points)} to interpolate from, the threshold is {threshold}, the bound {bound}"
        raise InternalError("shares", why, _REPORT)
    at_zero = [
        factor * prod(-other for other in points if other != x) % FIELD
        for x, factor in zip(points, _factors(points), strict=True)
    ]
    values = _multiply(np.array([at_zero], np.uint16), rows)[0].astype(np.int32)
    total: npt.NDArray[np.int32] = np.where(values > LARGEST, values - FIELD, values)
    if (np.abs(total) > bound).any():
        why = f"coefficient {int((np.abs(total) > bound).argmax())} is beyond +-{bound}: a released share is wrong"
        raise VerificationError("sum of keys", why, "Open it with the shares of other participants, or more of them.")
    return total


def _parity(points: Sequence[int], threshold: int) -> _Matrix:
    """A check matrix, shape (m - t, m): zero times every m values of a polynomial of degree below t at the points."""
    powers = _powers(points, len(points) - threshold).astype(np.uint64)
    return _reduce(powers * np.array(_factors(points), np.uint64)[:, None]).T


def _first_dependency(columns: npt.NDArray[np.int64]) -> _Matrix | None:
    """Coefficients (c_0, ..., c_j = 1) of the shortest vanishing sum of the first columns; None if there is none."""
    rows = columns.copy()
    for j in range(rows.shape[1]):
        below = np.flatnonzero(rows[j:, j])
        if not below.size:
            return np.append(-rows[:j, j] % FIELD, 1).astype(np.uint16)
        rows[[j, j + below[0]]] = rows[[j + below[0], j]]
        rows[j] = rows[j] * pow(int(rows[j, j]), -1, FIELD) % FIELD
        others = rows[:, j].copy()
        others[j] = 0
        rows = (rows - others[:, None] * rows[j]) % FIELD
    return None


def find_wrong(shares: Mapping[int, Share], threshold: int, random_bytes: RandomBytes) -> tuple[int, ...]:
    """The points, ascending, of the wrong ones among m released sums; up to e = floor((m - t) / 2) can be told.

    Reed-Solomon decoding of 5 random combinations of the coefficients: each wrong share shows in one but with
    probability 1/65521, so all of up to e <= 50 show but with probability 50 / 65521^5 < 2^-74. `random_bytes` must
    be unforeseeable when the shares arrived (os.urandom). What is left is then checked on every coefficient, so bad
    luck or foreseen randomness ends in a refusal: with at most e wrong ones nobody else is named and none is missed.

    Raises VerificationError if no e shares account for what is wrong. More than e wrong ones that agree on another
    polynomial pass, as anything does when m = t: the bounds on the keys' sum and on the noise are to catch those.
    """
    points, rows = _stack(shares, threshold)
    spare = len(points) - threshold
    most = spare // 2
    weights = _uniform(CHECKS * rows.shape[1], random_bytes).reshape(rows.shape[1], CHECKS)
    syndromes = _multiply(_parity(points, threshold), _multiply(rows, weights))
    # Each combination's syndromes satisfy the recurrence whose characteristic roots are its wrong points (Peterson).
    windows = np.arange(spare - most)[:, None] + np.arange(most + 1)
    locator = _first_dependency(syndromes.T[:, windows].reshape(-1, most + 1).astype(np.int64))
    if locator is not None:
        roots = _multiply(_powers(points, len(locator)), locator[:, None])[:, 0] == 0
        right = [x for x, root in zip(points, roots, strict=True) if not root]
        if not _multiply(_parity(right, threshold), rows[~roots]).any():
            return tuple(x for x in points if x not in right)
    why = (
        f"more than {most} of the shares of participants {points} are wrong; with a threshold of {threshold}, "
        f"{len(points)} shares tell at most {most} wrong ones from right ones"
    )
    raise VerificationError("released shares", why, "Open it when more participants have released theirs.")


def open_sum(shares: Mapping[int, Share], threshold: int, bound: int, random_bytes: RandomBytes) -> Opened:
    """The sum of keys from at least `threshold` released sums, and who sent wrong ones. Raises as its two parts do."""
    wrong = find_wrong(shares, threshold, random_bytes)
    right = sorted(x for x in shares if x not in wrong)[:threshold]
    return Opened(reconstruct({x: shares[x] for x in right}, threshold, bound), wrong)


def candidates(shares: Mapping[int, Share], threshold: int, bound: int, random_bytes: RandomBytes) -> Iterator[Opened]:
    """What `open_sum` gives, then every other sum of keys that the shares may be of; each is made when it is asked for.

    The others come of every set of t shares by itself, if there are no more than 5,000 sets: with a wrong share in it a
    set gives uniform values, which are not all within the bound, unless the share was made for that. Of several
    candidates the right one is that which opens the sum of ciphertexts: any other leaves noise beyond its bound. So t
    right shares open it whatever else was released. Raises as `open_sum` where there is no candidate at all.
    """
    seen = set()
    try:
        first = open_sum(shares, threshold, bound, random_bytes)
    except VerificationError as error:
        refusal = error
    else:
        seen.add(first.total.tobytes())
        yield first
    if len(shares) > threshold and comb(len(shares), threshold) <= MOST_SETS:
        for opened in _small_sums(shares, threshold, bound):
            if opened.total.tobytes() not in seen:
                seen.add(opened.total.tobytes())
                yield opened
    if not seen:
        raise refusal


def _small_sums(shares: Mapping[int, Share], threshold: int, bound: int) -> Iterator[Opened]:
    for chosen in combinations(sorted(shares), threshold):
        try:
            total = reconstruct({x: shares[x] for x in chosen}, threshold, bound)
        except VerificationError:
            continue
        others = sorted(shares.keys() - set(chosen))
        yield Opened(total, tuple(x for x in others if not _on_one_polynomial(shares, (*chosen, x), threshold)))


def _on_one_polynomial(shares: Mapping[int, Share], points: Sequence[int], threshold: int) -> bool:
    points = sorted(points)
    return not _multiply(_parity(points, threshold), np.stack([shares[x] for x in points])).any()
