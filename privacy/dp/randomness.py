"""Where sampling and noise take their bits: ChaCha20 keyed by the operating system, one key per purpose.

Never torch's global generator: equal seeds at two silos would mean equal noise, and the noise would cancel out of
differences (docs/explanation/dp-training.md). Production code takes no seed; tests name `deterministic_for_tests`.
"""

import os
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from randomgen import ChaCha

KEY_BYTES = 32
ROUNDS = 20


def os_seeded() -> np.random.Generator:
    """A numpy Generator on ChaCha20 under a fresh 256-bit key from the operating system."""
    return np.random.Generator(ChaCha(key=int.from_bytes(os.urandom(KEY_BYTES), "big"), rounds=ROUNDS))


@dataclass(frozen=True)
class Randomness:
    """One round's two independent streams: who takes part in a step, and the noise that covers them."""

    sampling: np.random.Generator = field(repr=False)
    noise: np.random.Generator = field(repr=False)

    @classmethod
    def from_os(cls) -> Self:
        """Two fresh streams that nobody can repeat."""
        return cls(os_seeded(), os_seeded())

    @classmethod
    def deterministic_for_tests(cls, seed: int) -> Self:
        """Two streams that repeat for equal seeds: noise from them protects nobody."""
        return cls(*(np.random.Generator(ChaCha(key=2 * seed + stream, rounds=ROUNDS)) for stream in (0, 1)))
