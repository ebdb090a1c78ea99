"""For every cohort, grid, length and update: sums are exact. For every update's residues: bytes and back."""

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.ckks.multikey import OneTimeKey, open_sum, seal
from privacy.ckks.multikey_layout import MultikeyLayout, add_into, check_chunk, sum_chunk
from privacy.ckks.multikey_params import DEGREES, MultikeyParams
from privacy.ckks.sampling import SecureBits
from privacy.errors import ProtocolError


@cache
def params_of(name, participants, bits):
    return MultikeyParams(name, participants, bits)


@st.composite
def layouts(draw, most=3000):
    params = params_of(
        draw(st.sampled_from(list(DEGREES))), draw(st.sampled_from([3, 4, 10])), draw(st.integers(8, 16))
    )
    return MultikeyLayout(draw(st.integers(1, most)), params)


@st.composite
def grids(draw, layout):
    """All 0, all at the top, or anything between with some of both."""
    top = layout.params.largest_sum(1)
    kind = draw(st.sampled_from(["zeros", "tops", "any"]))
    if kind != "any":
        return np.full(layout.values, 0 if kind == "zeros" else top, np.uint16)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.integers(-top // 8, top + top // 8, layout.values).clip(0, top).astype(np.uint16)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_sum_is_exact(data):
    layout = data.draw(layouts())
    members = data.draw(st.integers(3, layout.params.participants))
    ctx = data.draw(st.binary(min_size=32, max_size=32))
    bits, size = SecureBits(), layout.params.values_per_block
    total, total_key = layout.empty_sum(), np.zeros(layout.params.degree, np.int32)
    exact = np.zeros(layout.values, np.uint32)
    for _ in range(members):
        grid, key = data.draw(grids(layout)), OneTimeKey.generate(layout.params, bits)
        blocks = [grid[start : start + size] for start in range(0, layout.values, size)]
        for index, chunk in enumerate(seal(key.pads(ctx, layout, bits), layout, blocks)):
            add_into(total[layout.chunk_span(index)], check_chunk(chunk, index, layout), layout)
        total_key += np.frombuffer(key.to_bytes(), np.int8)
        exact += grid
    chunks = [sum_chunk(total, index, layout) for index in range(layout.chunks)]
    assert np.array_equal(np.concatenate(list(open_sum(total_key, ctx, layout, members, chunks))), exact)


@settings(max_examples=60, deadline=None)
@given(layouts(most=200_000), st.integers(0, 2**32), st.data())
def test_residues_are_the_same_after_the_wire(layout, seed, data):
    index = data.draw(st.integers(0, layout.chunks - 1))
    rng, residues = np.random.default_rng(seed), layout.empty_sum()
    span = layout.chunk_span(index)
    for block in range(span.start, span.stop):
        width = layout.width(block)
        for row, prime in zip(residues[block], layout.params.primes, strict=True):
            row[:width] = rng.choice(np.array([0, 1, prime - 1, prime // 2]), width)
    chunk = sum_chunk(residues, index, layout)
    assert len(chunk) == layout.chunk_bytes(index)
    assert np.array_equal(check_chunk(chunk, index, layout), residues[span])


@settings(max_examples=100, deadline=None)
@given(layouts(most=500), st.data())
def test_bytes_are_refused_or_mean_exactly_one_update(layout, data):
    size = layout.chunk_bytes(0)
    chunk = data.draw(st.one_of(st.binary(max_size=600), st.binary(min_size=size, max_size=size)))
    residues, sender = None, None
    try:
        residues = check_chunk(chunk, 0, layout, sender="hospital-a")
    except ProtocolError as error:
        sender = error.sender
    assert sender == "hospital-a" if residues is None else sum_chunk(residues, 0, layout) == chunk
