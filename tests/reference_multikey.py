"""Sealing and opening of `ckks-multikey` a second time, from the text of its specification, in plain Python integers.

It shares no code with `privacy.ckks` and makes tests/vectors/v1/multikey.json: `python -m tests.reference_multikey`.
A residue system is a list of rows, one for each prime; bytes are made from one long integer a row.
"""

import hashlib
from fractions import Fraction
from functools import cache
from math import ceil, prod, sqrt

from tests.reference_ring import SETS, combine, kronecker, primes_below, reversed_bits, smallest_root, write
from tests.reference_sampler import common_row, gaussian, keystream

DELTA = 1 << 12
VARIANCE = Fraction(81, 2)
DEGREES = {"small": 4096, "default": 8192, "large": 16384}
CTX = hashlib.sha256(b"a round").digest()


def transform(values, root, prime):
    """sum over i of values[i] root^(i j), for each j."""
    if len(values) == 1:
        return values
    even, odd = (transform(values[start::2], root * root % prime, prime) for start in (0, 1))
    half, power, first, second = len(even), 1, [], []
    for j in range(half):
        turned = power * odd[j] % prime
        first.append((even[j] + turned) % prime)
        second.append((even[j] - turned) % prime)
        power = power * root % prime
    return first + second


def coefficients(ntt_form, prime):
    """The polynomial whose values at root^(2 i + 1), at the place of i's reversed bits, are these."""
    degree = len(ntt_form)
    root = smallest_root(degree, prime)
    values = [ntt_form[reversed_bits(i, degree)] for i in range(degree)]
    sums = transform(values, pow(root, -2, prime), prime)
    return [sums[j] * pow(degree, -1, prime) * pow(root, -j, prime) % prime for j in range(degree)]


class Suite:
    def __init__(self, set_name, participants, grid_bits, values):
        self.degree = DEGREES[set_name]
        self.primes = primes_below(1 << 31, self.degree, SETS[self.degree])
        self.modulus = prod(self.primes)
        self.bits, self.values = grid_bits, values
        self.field_bits = grid_bits
        while 2**self.field_bits < participants * 2**grid_bits:
            self.field_bits += 1
        self.fields = 0
        while 2 ** (self.field_bits * (self.fields + 1)) * DELTA <= self.modulus:
            self.fields += 1
        in_block = self.degree * self.fields
        self.counts = [min(in_block, values - start) for start in range(0, values, in_block)]
        self.widths = [ceil(count / (32 * self.fields)) * 32 for count in self.counts]

    @cache  # noqa: B019
    def common(self, ctx, block, prime):
        return coefficients(common_row(ctx, block, prime, self.degree), prime)

    def times_common(self, ctx, block, small):
        """a_k times a polynomial of signed integers."""
        return [
            [x % p for x in kronecker(self.common(ctx, block, p), [value % p for value in small])] for p in self.primes
        ]

    def message(self, block, grid):
        width = self.widths[block]
        padded = grid + [0] * (self.fields * width - len(grid))
        return [sum(padded[i * width + j] << (self.field_bits * i) for i in range(self.fields)) for j in range(width)]

    def split(self, grid):
        starts = [sum(self.counts[:block]) for block in range(len(self.counts))]
        return [grid[start : start + count] for start, count in zip(starts, self.counts, strict=True)]

    def seal(self, ctx, keystream_key, grid):
        """(key, blocks of residues): the key is drawn first, then the noise of block after block."""
        size = 16 * self.degree + self.degree // 8
        draws = [
            gaussian(VARIANCE, self.degree, keystream(keystream_key, size, size * i))
            for i in range(len(self.counts) + 1)
        ]
        blocks = []
        for block, part in enumerate(self.split(grid)):
            masks, noise, message = self.times_common(ctx, block, draws[0]), draws[block + 1], self.message(block, part)
            blocks.append(
                [
                    [(noise[j] - mask[j] + DELTA * message[j]) % p for j in range(self.widths[block])]
                    for mask, p in zip(masks, self.primes, strict=True)
                ]
            )
        return draws[0], blocks

    def encode(self, blocks):
        """The bytes of an update or a sum."""
        rows = [row for block in blocks for row in block]
        return b"".join(
            sum(residue << (31 * j) for j, residue in enumerate(row)).to_bytes(31 * len(row) // 8, "little")
            for row in rows
        )

    def add(self, updates):
        return [
            [
                [sum(column) % p for column in zip(*rows, strict=True)]
                for rows, p in zip(zip(*blocks, strict=True), self.primes, strict=True)
            ]
            for blocks in zip(*updates, strict=True)
        ]

    def change(self, blocks, place, amount):
        """The same with an integer added to coefficient `place` of the last block."""
        changed = [[list(row) for row in block] for block in blocks]
        for row, p in zip(changed[-1], self.primes, strict=True):
            row[place] = (row[place] + amount) % p
        return changed

    def integers(self, ctx, key, block, rows):
        """Delta m + noise + Delta / 2 of each coefficient."""
        masks = self.times_common(ctx, block, key)
        opened = [
            [(residue + mask[j] + DELTA // 2) % p for j, residue in enumerate(row)]
            for row, mask, p in zip(rows, masks, self.primes, strict=True)
        ]
        return [combine(column, self.primes) for column in zip(*opened, strict=True)]

    def open(self, ctx, key, blocks):
        """(noise of each coefficient of the last block, all values)."""
        values, noise = [], []
        for block, rows in enumerate(blocks):
            opened = self.integers(ctx, key, block, rows)
            noise = [integer % DELTA - DELTA // 2 for integer in opened]
            fields = [
                (integer // DELTA >> (self.field_bits * i)) % 2**self.field_bits
                for i in range(self.fields)
                for integer in opened
            ]
            assert not any(fields[self.counts[block] :])
            values += fields[: self.counts[block]]
        return noise, values


def shown(data):
    """Short bytes whole, long ones hashed."""
    return {"hex": data.hex()} if len(data) <= 4000 else {"sha256": hashlib.sha256(data).hexdigest()}


def words_of(name, count, bits):
    stream = hashlib.shake_256(name.encode()).digest(2 * count)
    return [int.from_bytes(stream[2 * i : 2 * i + 2], "little") >> (16 - bits) for i in range(count)]


def bound(members):
    found = ceil(16 * sqrt(VARIANCE * members))
    assert (found - 1) ** 2 < 256 * VARIANCE * members <= found**2
    return found


def little(numbers, size):
    return b"".join(number.to_bytes(size, "little", signed=True) for number in numbers)


def round_vector(set_name, participants, members, bits, values):
    """A round's whole sealing and opening; the suite, the sum's residues and the keys."""
    suite = Suite(set_name, participants, bits, values)
    silos, updates, keys, grids = [], [], [], []
    for silo in range(members):
        stream_key = hashlib.sha256(f"silo {silo}".encode()).digest()
        grids.append(words_of(f"grid of silo {silo}", values, bits))
        key, blocks = suite.seal(CTX, stream_key, grids[-1])
        keys.append(key)
        updates.append(blocks)
        silos.append(
            {
                "keystream_key": stream_key.hex(),
                "key_sha256": hashlib.sha256(little(key, 1)).hexdigest(),
                "grid_of": f"grid of silo {silo}",
                "update": shown(suite.encode(blocks)),
            }
        )
    total = suite.add(updates)
    total_key = [sum(column) for column in zip(*keys, strict=True)]
    _, sums = suite.open(CTX, total_key, total)
    assert sums == [sum(column) for column in zip(*grids, strict=True)]
    vector = {
        "set": set_name,
        "participants": participants,
        "grid_bits": bits,
        "values": values,
        "ctx": CTX.hex(),
        "silos": silos,
        "sum": shown(suite.encode(total)),
        "opened": shown(little(sums, 4)),
    }
    return vector, suite, total, keys


def openings(suite, total, keys):
    """What a silo must open or refuse: sums of the round that were changed in one way each."""
    members, everybody = len(keys), list(range(len(keys)))
    noise, sums = suite.open(CTX, [sum(column) for column in zip(*keys, strict=True)], total)
    largest, width = members * (2**suite.bits - 1), suite.widths[-1]
    empty = len(sums) % width  # the first coefficient whose last field in use is after the last value
    data, limit = suite.encode(total), bound(members)
    row = len(data) // len(suite.primes)
    second_row = int.from_bytes(data[row : 2 * row], "little") >> 31 << 31 | suite.primes[1]
    unreduced = data[:row] + second_row.to_bytes(row, "little") + data[2 * row :]
    last_field = len(sums) // width * suite.field_bits

    def case(name, chunk, error=None, message=None, *, ctx=CTX, keys_of=everybody, opened=sums):
        expected = {"error": error, "message": message} if error else {"opened": shown(little(opened, 4))}
        return {"name": name, "ctx": ctx.hex(), "keys_of": keys_of, "chunk": chunk.hex(), **expected}

    def changed(place, amount):
        return suite.encode(suite.change(total, place, amount))

    def noisy(value):
        return changed(3, value - noise[3])

    too_noisy = ("VerificationError", f"has more noise than {members} have")
    no_sums = ("VerificationError", f"holds values no {members} updates add up to")
    surplus = ("VerificationError", "holds something after its last value")
    another = hashlib.sha256(b"another round").digest()
    return [
        case("as it was sealed", data),
        case("greatest noise", noisy(limit)),
        case("least noise", noisy(-limit)),
        case("greatest field", changed(0, DELTA * (largest - sums[0])), opened=[largest, *sums[1:]]),
        case("noise above its bound", noisy(limit + 1), *too_noisy),
        case("noise below its bound", noisy(-limit - 1), *too_noisy),
        case("another round's digest", data, *too_noisy, ctx=another),
        case("a key too few", data, *too_noisy, keys_of=everybody[1:]),
        case("a key too many", data, *too_noisy, keys_of=[0, *everybody]),
        case("a field above its greatest sum", changed(0, DELTA * (largest + 1 - sums[0])), *no_sums),
        case("a bit above all fields", changed(0, DELTA << (suite.field_bits * suite.fields)), *no_sums),
        case("a field after the last value", changed(empty, DELTA << last_field), *surplus),
        case("truncated", data[:-1], "ProtocolError", f"is truncated: {len(data) - 1} bytes, expected {len(data)}"),
        case("oversized", data + b"\0", "ProtocolError", f"is oversized: {len(data) + 1} bytes, expected {len(data)}"),
        case("unreduced", unreduced, "ProtocolError", "residue 0 in row 1 of its block 0 is not reduced"),
    ]


CASES = [
    ("small", 4, 3, 8, 100),
    ("small", 4, 4, 16, 16384 + 70),
    ("default", 100, 3, 12, 33),
    ("large", 3, 3, 16, 800),
]


def multikey_vector(case):
    vector, suite, total, keys = round_vector(*case)
    return vector | {"openings": openings(suite, total, keys)} if case == CASES[0] else vector


if __name__ == "__main__":
    write("multikey.json", [multikey_vector(case) for case in CASES])
