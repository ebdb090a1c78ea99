"""What an aggregator does with ciphertexts, by its own code, with nothing else running on the machine.

In a whole round on one machine the silos take its processors and its memory's bandwidth at the same time; a real
aggregator shares its machine with no silo.
"""

import time
from pathlib import Path

import numpy as np

from aggregator.accumulate import RunningSum, passing_chunks, read_chunks
from privacy.ckks.fingerprint import fingerprint_of
from privacy.ckks.layout import chunk_leaf
from privacy.ckks.layouts import UpdateLayout

CHALLENGE = b"benchmark"


def aggregate_alone(layout: UpdateLayout, silos: int, folder: Path) -> float:
    """Nanoseconds of one core a value and silo: check, hash, add, hash and write the sum, fingerprint every update.

    Updates are random residues, the same for every silo. The second of two passes counts: kernels are compiled then.
    """
    update = _random_update(layout, folder / "update")
    for _ in range(2):
        spent = _one_round(layout, [f"silo-{i}" for i in range(silos)], update, folder / "sum")
    return spent / silos / layout.values


def _one_round(layout: UpdateLayout, silos: list[str], update: Path, total: Path) -> int:
    room, size, spent = layout.room(), layout.chunk_bytes(0), 0
    for _ in silos:  # as they come
        for index, chunk in enumerate(read_chunks(update, size)):
            start = time.thread_time_ns()
            layout.check(chunk, index, into=room)
            chunk_leaf(chunk)
            spent += time.thread_time_ns() - start
    running = RunningSum(layout)
    running.commit(dict.fromkeys(silos, update), total)
    start = time.thread_time_ns()
    for _ in silos:
        fingerprint_of(layout, CHALLENGE, passing_chunks(update, size))
    return spent + running.spent_ns + time.thread_time_ns() - start


def _random_update(layout: UpdateLayout, path: Path) -> Path:
    residues, random = layout.empty_sum(), np.random.default_rng(0)
    rows = residues.reshape(-1, len(layout.moduli), layout.degree)
    for lane, modulus in enumerate(layout.moduli):
        rows[:, lane] = random.integers(0, modulus, rows[:, lane].shape, dtype=residues.dtype)
    with path.open("wb") as file:
        file.writelines(layout.encode(residues, index) for index in range(layout.chunks))
    return path
