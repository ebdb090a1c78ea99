"""How a sealed update lies on the wire: sizes, bits, and what an aggregator accepts and adds."""

import subprocess
import sys

import numpy as np
import pytest

from privacy.ckks.fingerprint import Challenge, Fingerprint, add_values
from privacy.ckks.multikey_layout import CHUNK_LIMIT, MultikeyLayout, add_into, check_chunk, pack_block, sum_chunk
from privacy.ckks.multikey_params import DEGREES, MultikeyParams
from privacy.errors import InternalError, ProtocolError

SETS = [MultikeyParams(name, 16, 16) for name in DEGREES]
SMALL = SETS[0]  # 4 fields: 16,384 values and 47,616 bytes a block


def residues_of(layout, seed=1):
    """A random update, zeros where nothing travels."""
    rng, update = np.random.default_rng(seed), layout.empty_sum()
    for block, rows in enumerate(update):
        for row, prime in zip(rows, layout.params.primes, strict=True):
            row[: layout.width(block)] = rng.integers(0, prime, layout.width(block))
    return update


def chunks_of(layout, update):
    return [sum_chunk(update, index, layout) for index in range(layout.chunks)]


def bits_of(row):
    """The bytes of a row, by their definition."""
    return sum(residue << (31 * i) for i, residue in enumerate(row.tolist())).to_bytes(31 * len(row) // 8, "little")


@pytest.mark.parametrize(
    ("values", "blocks", "last_width", "chunks", "total"),
    [
        (1, 1, 32, 1, 3 * 124),
        (128, 1, 32, 1, 3 * 124),
        (129, 1, 64, 1, 6 * 124),
        (16_384, 1, 4096, 1, 47_616),
        (16_385, 2, 32, 1, 47_616 + 372),
        (20 * 16_384, 20, 4096, 1, 952_320),
        (20 * 16_384 + 5000, 21, 1280, 2, 952_320 + 40 * 372),
    ],
)
def test_sizes_follow_from_the_number_of_values(values, blocks, last_width, chunks, total):
    layout = MultikeyLayout(values, SMALL)
    assert (layout.blocks, layout.width(blocks - 1), layout.chunks) == (blocks, last_width, chunks)
    assert sum(layout.block_values(block) for block in range(blocks)) == values
    assert sum(layout.chunk_bytes(i) for i in range(chunks)) == layout.residue_bytes == layout.upload_bytes == total
    spans = [layout.chunk_span(i) for i in range(chunks)]
    assert [block for span in spans for block in range(span.start, span.stop)] == list(range(blocks))


@pytest.mark.parametrize(("params", "blocks"), list(zip(SETS, (20, 5, 1), strict=True)), ids=DEGREES)
def test_a_chunk_is_whole_blocks_and_fits_in_a_message_of_a_mebibyte(params, blocks):
    layout = MultikeyLayout(3 * blocks * params.values_per_block, params)
    assert (layout.chunk_blocks, layout.chunks) == (blocks, 3)
    assert layout.chunk_bytes(0) <= CHUNK_LIMIT < 1_000_000


def test_bytes_per_value_on_the_wire():
    for values in (200_000, 1_000_000, 9_999_999, 10_000_000, 30_000_000):
        for participants, most in ((4, 2.95), (32, 2.95), (100, 3.4)):
            params = MultikeyParams.for_update(values, participants, 16)
            assert MultikeyLayout(values, params).upload_bytes / values < most


def test_an_update_of_nothing_is_our_bug():
    with pytest.raises(InternalError, match="0 values"):
        MultikeyLayout(0, SMALL)


@pytest.mark.parametrize("params", SETS, ids=DEGREES)
def test_rows_are_31_bit_numbers_one_after_another(params):
    layout = MultikeyLayout(params.values_per_block + 100, params)
    update = residues_of(layout)
    data = b"".join(chunks_of(layout, update))
    rows = [row[: layout.width(block)] for block, rows in enumerate(update) for row in rows]
    assert data == b"".join(bits_of(row) for row in rows)
    start = 0
    for index in range(layout.chunks):
        chunk = data[start : start + layout.chunk_bytes(index)]
        assert np.array_equal(check_chunk(chunk, index, layout), update[layout.chunk_span(index)])
        start += len(chunk)
    assert start == len(data)


def test_a_block_takes_no_more_than_its_width():
    ones = np.full((3, 4096), (1 << 31) - 1, np.uint32)
    assert pack_block(ones, 64) == b"\xff" * 3 * 248


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "is truncated: 371 bytes, expected 372"),
        (lambda data: b"", "is truncated: 0 bytes, expected 372"),
        (lambda data: data + b"\0", "is oversized: 373 bytes, expected 372"),
        (lambda data: SMALL.primes[0].to_bytes(4, "little") + data[4:], "residue 0 in row 0 of its block 0"),
        (lambda data: data[:-4] + b"\xff" * 4, "residue 31 in row 2 of its block 0 is not reduced"),
    ],
)
def test_a_wrong_chunk_names_sender_chunk_and_reason(change, why):
    layout = MultikeyLayout(10, SMALL)
    with pytest.raises(ProtocolError, match=f"residue chunk 0: {why}") as caught:
        check_chunk(change(bytes(372)), 0, layout, sender="hospital-a")
    assert (caught.value.sender, caught.value.step) == ("hospital-a", "submit")


@pytest.mark.parametrize(("block", "row", "place"), [(0, 0, 0), (19, 2, 4095), (20, 1, 31)])
def test_one_unreduced_residue_is_found_wherever_it_is(block, row, place):
    layout = MultikeyLayout(20 * 16_384 + 1, SMALL)
    update = residues_of(layout)
    update[block, row, place] = SMALL.primes[row] - 1
    for index, chunk in enumerate(chunks_of(layout, update)):
        check_chunk(chunk, index, layout)
    update[block, row, place] += 1
    index = block // 20
    check_chunk(sum_chunk(update, 1 - index, layout), 1 - index, layout)
    with pytest.raises(
        ProtocolError, match=f"chunk {index}: residue {place} in row {row} of its block {block % 20} is"
    ):
        check_chunk(sum_chunk(update, index, layout), index, layout)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_chunk_outside_the_layout_is_refused(index):
    layout = MultikeyLayout(20 * 16_384 + 1, SMALL)
    with pytest.raises(ProtocolError, match=f"residue chunk {index}: an update of this job has 2 chunks"):
        check_chunk(b"", index, layout)


def test_a_whole_chunk_in_the_place_of_the_last_is_oversized():
    layout = MultikeyLayout(20 * 16_384 + 1, SMALL)
    with pytest.raises(ProtocolError, match="is oversized: 952320 bytes, expected 372"):
        check_chunk(bytes(952_320), 1, layout)


def test_a_sum_is_modulo_each_prime_and_as_large_as_one_update():
    layout = MultikeyLayout(20 * 16_384 + 1000, SMALL)
    updates = [residues_of(layout, seed) for seed in range(4)]
    total = layout.empty_sum()
    for update in updates:
        for index, chunk in enumerate(chunks_of(layout, update)):
            add_into(total[layout.chunk_span(index)], check_chunk(chunk, index, layout), layout)
    moduli = np.array(SMALL.primes, np.uint64)[:, None]
    assert np.array_equal(total, sum(update.astype(np.uint64) for update in updates) % moduli)
    whole = MultikeyLayout(20 * 16_384, SMALL)
    assert whole.empty_sum().nbytes * 31 == whole.residue_bytes * 32


def test_adding_what_does_not_fit_is_our_bug_and_changes_nothing():
    layout = MultikeyLayout(20 * 16_384, SMALL)
    total = layout.empty_sum()
    for bad in (residues_of(layout)[:3], residues_of(layout)[:, :2], np.full_like(total, SMALL.primes[2])):
        with pytest.raises(InternalError, match=r"residue sum: shapes differ|residues: are uint32 of shape"):
            add_into(total, bad, layout)
    assert not total.any()


def test_fingerprints_take_in_chunk_after_chunk_and_what_a_truncated_block_lacks_as_zeros():
    layout = MultikeyLayout(20 * 16_384 + 1000, SMALL)
    challenge = Challenge.draw(b"a commit", layout.blocks, SMALL.degree)

    def fingerprint_of(update):
        fingerprint = Fingerprint(challenge, SMALL.primes)
        for index, chunk in enumerate(chunks_of(layout, update)):
            fingerprint.add(check_chunk(chunk, index, layout))
        return fingerprint.value()

    updates = [residues_of(layout, seed) for seed in range(3)]
    total = layout.empty_sum()
    for update in updates:
        add_into(total, update, layout)
    assert fingerprint_of(total) == add_values(map(fingerprint_of, updates), SMALL.primes)
    total[20, 2, layout.width(20) - 1] ^= 1
    assert fingerprint_of(total) != add_values(map(fingerprint_of, updates), SMALL.primes)


def test_what_an_aggregator_needs_holds_no_keys_and_opens_nothing():
    program = (
        "import sys, privacy.ckks.multikey_layout; print(*[m for m in sys.modules if m.startswith('privacy.ckks.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = {name.removeprefix("privacy.ckks.") for name in done.stdout.split()}
    assert names == {"multikey_layout", "multikey_params", "ring_primes"}
