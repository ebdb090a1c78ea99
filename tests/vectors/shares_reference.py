"""Sharing in plain Python, and the vectors of tests/vectors/v1/shares.json made with it.

Shares nothing with privacy/ckks/shares.py: Horner's rule, Lagrange interpolation one coefficient at a time, decoding
by trying every set of wrong points. `python -m tests.vectors.shares_reference` writes the file again.
"""

import hashlib
import json
from itertools import combinations
from pathlib import Path

P = 65521
PATH = Path(__file__).parent / "v1" / "shares.json"


def field_elements(stream):
    """16-bit little-endian words of a byte string, in order, without those from p up."""
    words = (int.from_bytes(stream[i : i + 2], "little") for i in range(0, len(stream) - 1, 2))
    return (word for word in words if word < P)


def deal(secret, threshold, points, stream):
    elements = field_elements(stream)
    higher = [[next(elements) for _ in secret] for _ in range(threshold - 1)]
    shares = []
    for x in points:
        share = []
        for k, constant in enumerate(secret):
            value = 0
            for row in reversed(higher):
                value = (value + row[k]) * x % P
            share.append((value + constant) % P)
        shares.append(share)
    return shares


def at(x, known):
    """The value at x of the polynomial of least degree through the (point, value) pairs of `known`."""
    value = 0
    for i, (xi, yi) in enumerate(known):
        for j, (xj, _) in enumerate(known):
            if i != j:
                yi = yi * (x - xj) * pow(xi - xj, -1, P) % P
        value += yi
    return value % P


def centred(value):
    return value - P if value > P // 2 else value


def interpolate(shares, threshold):
    """The secret from the first `threshold` of {point: share}."""
    some = list(shares.items())[:threshold]
    return [centred(at(0, [(x, share[k]) for x, share in some])) for k in range(len(some[0][1]))]


def agree(shares, threshold):
    some = list(shares.items())
    basis, rest = some[:threshold], some[threshold:]
    return all(
        at(x, [(point, values[k]) for point, values in basis]) == value
        for x, share in rest
        for k, value in enumerate(share)
    )


def wrong_points(shares, threshold):
    """The smallest set of at most floor((m - t) / 2) points without which the shares agree; None if there is none."""
    for count in range((len(shares) - threshold) // 2 + 1):
        for wrong in combinations(shares, count):
            if agree({x: share for x, share in shares.items() if x not in wrong}, threshold):
                return list(wrong)
    return None


def encode(share):
    return b"".join(value.to_bytes(2, "little") for value in share).hex()


def small(label, length):
    """Coefficients from -80 to 80."""
    return [byte % 161 - 80 for byte in hashlib.shake_256(label.encode()).digest(length)]


def stream(label, length):
    """Randomness that begins with words to be rejected: p itself, and 0xffff."""
    return P.to_bytes(2, "little") + b"\xff\xff" + hashlib.shake_256(label.encode()).digest(length)


def scenario(n, threshold, length, members, wrong):
    """Members deal, every participant adds what it holds, those in `wrong` send something else."""
    name = f"{members} keys of {length} coefficients, {threshold} of {n} shares, {len(wrong)} wrong"
    points = list(range(1, n + 1))
    keys = [small(f"{name}, key {i}", length) for i in range(members)]
    streams = [stream(f"{name}, randomness {i}", 2 * (threshold - 1) * length + 20) for i in range(members)]
    dealt = [deal(key, threshold, points, some) for key, some in zip(keys, streams, strict=True)]
    sums = {x: [sum(column) % P for column in zip(*(d[x - 1] for d in dealt), strict=True)] for x in points}
    for x in wrong:
        sums[x][x % length] = (sums[x][x % length] + 1) % P
    found = wrong_points(sums, threshold)
    right = {x: share for x, share in sums.items() if x not in (found or wrong)}
    total = [sum(column) for column in zip(*keys, strict=True)]
    vector = {
        "name": name,
        "threshold": threshold,
        "operations": [
            {"op": "share", "secret": key, "random": some.hex(), "shares": [encode(share) for share in d]}
            for key, some, d in zip(keys, streams, dealt, strict=True)
        ],
    }
    vector["operations"].append({"op": "released", "sums": {str(x): encode(share) for x, share in sums.items()}})
    if found is None:
        vector["failure"] = "too-many-wrong"
    else:
        assert interpolate(right, threshold) == total
        vector["operations"].append({"op": "open", "bound": max(map(abs, total)), "wrong": found, "total": total})
    return vector


def over_the_bound():
    vector = scenario(4, 3, 6, 3, [])
    opened = vector["operations"][-1]
    opened["bound"] -= 1
    return {**vector, "name": "a sum of keys one beyond its bound", "failure": "out-of-bound"}


def encodings():
    values = [0, 1, P - 1, 32760]
    good = encode(values)
    bad = {
        "truncated": [good[:-2], "", good[:-4]],
        "oversized": [good + "00", good + good],
        "not-reduced": [good[:-4] + "f1ff", "ffff" + good[4:]],
    }
    accepted = {"share": good, "length": 4, "values": values}
    return [accepted] + [{"share": share, "length": 4, "failure": f} for f, every in bad.items() for share in every]


def vectors():
    return {
        "format": "cloister/v1/shares",
        "field": P,
        "encodings": encodings(),
        "sums": [
            scenario(3, 3, 8, 3, []),
            scenario(4, 3, 8, 4, []),
            scenario(10, 7, 5, 6, [4]),
            scenario(10, 4, 5, 5, [1, 6, 10]),
            scenario(4, 3, 8, 3, [2]),
            scenario(10, 7, 5, 5, [3, 9]),
            over_the_bound(),
        ],
    }


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
