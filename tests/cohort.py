"""Test parties of the suite `ckks-group`: seal whole updates, add them as an aggregator does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privacy.ckks.group import GroupKey, open_sum, seal
from privacy.ckks.layout import CHUNK_BYTES, Layout, add_into, check_chunk, sum_chunk
from privacy.ckks.params import VALUES_PER_BLOCK, GroupParams


@dataclass(frozen=True)
class SealedUpdate:
    """One silo's sealed update as it lies in its outbox."""

    chunks: tuple[bytes, ...]
    seeds: bytes


def seal_update(key: GroupKey, params: GroupParams, grid: np.ndarray) -> SealedUpdate:
    starts = range(0, len(grid), VALUES_PER_BLOCK)
    sealed = list(seal(key, params, (grid[i : i + VALUES_PER_BLOCK] for i in starts)))
    residues = b"".join(block.residues for block in sealed)
    chunks = tuple(residues[i : i + CHUNK_BYTES] for i in range(0, len(residues), CHUNK_BYTES))
    return SealedUpdate(chunks, b"".join(block.seed for block in sealed))


def add_updates(layout: Layout, updates: Sequence[SealedUpdate]) -> list[bytes]:
    """The sum's chunks: all that an aggregator does, and without any key."""
    total = layout.empty_sum()
    for update in updates:
        for index, chunk in enumerate(update.chunks):
            add_into(total[layout.chunk_span(index)], check_chunk(chunk, index, layout))
    return [sum_chunk(total, index, layout) for index in range(layout.chunks)]


def open_all(key, params, layout, chunks, seeds) -> np.ndarray:
    return np.concatenate(list(open_sum(key, params, layout, chunks, seeds)))
