import subprocess
import sys

import numpy as np
import pytest

from privacy.ckks.layout import (
    CHUNK_BLOCKS,
    CHUNK_BYTES,
    Layout,
    add_into,
    check_chunk,
    check_seeds,
    chunk_leaf,
    chunks_root,
    sum_chunk,
)
from privacy.ckks.params import BLOCK_BYTES, DEGREE, PRIME, GroupParams
from privacy.errors import ConfigError, InternalError, ProtocolError

ONE_CHUNK = 8192 * CHUNK_BLOCKS


@pytest.mark.parametrize(
    ("values", "blocks", "chunks", "last"),
    [
        (1, 1, 1, BLOCK_BYTES),
        (8192, 1, 1, BLOCK_BYTES),
        (8193, 2, 1, 2 * BLOCK_BYTES),
        (ONE_CHUNK, 30, 1, CHUNK_BYTES),
        (ONE_CHUNK + 1, 31, 2, BLOCK_BYTES),
    ],
)
def test_sizes_follow_from_the_number_of_values(values, blocks, chunks, last):
    layout = Layout(values)
    assert (layout.blocks, layout.chunks, layout.chunk_bytes(chunks - 1)) == (blocks, chunks, last)
    assert sum(layout.chunk_bytes(i) for i in range(chunks)) == layout.residue_bytes == blocks * 32768
    assert layout.seed_bytes == blocks * 64


def test_a_chunk_fits_in_a_message_of_a_mebibyte():
    assert CHUNK_BYTES < 1_000_000


def test_bytes_per_value_on_the_wire():
    assert Layout(10_000_000).upload_bytes / 10_000_000 < 4.02


def test_an_update_of_nothing_is_our_bug():
    with pytest.raises(InternalError, match="0 values"):
        Layout(0)


def chunk_of(layout, index=0, fill=0):
    return np.full(layout.chunk_bytes(index) // 8, fill, "<u8").tobytes()


def test_a_reduced_chunk_is_read_without_a_copy():
    layout = Layout(10)
    data = chunk_of(layout, fill=PRIME - 1)
    residues = check_chunk(data, 0, layout)
    assert residues.shape == (DEGREE,)
    assert int(residues[0]) == PRIME - 1
    assert not residues.flags.writeable


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "is truncated: 32767 bytes, expected 32768"),
        (lambda data: b"", "is truncated: 0 bytes, expected 32768"),
        (lambda data: data + b"\0", "is oversized: 32769 bytes, expected 32768"),
        (lambda data: data[:800] + PRIME.to_bytes(8, "little") + data[808:], "residue 100 is not reduced modulo p"),
        (lambda data: data[:-8] + b"\xff" * 8, "residue 4095 is not reduced modulo p"),
    ],
)
def test_a_wrong_chunk_names_sender_chunk_and_reason(change, why):
    layout = Layout(10)
    with pytest.raises(ProtocolError, match=f"residue chunk 0: {why}") as caught:
        check_chunk(change(chunk_of(layout)), 0, layout, sender="hospital-a")
    assert (caught.value.sender, caught.value.step) == ("hospital-a", "submit")


@pytest.mark.parametrize("index", [-1, 2])
def test_a_chunk_outside_the_layout_is_refused(index):
    layout = Layout(ONE_CHUNK + 1)
    with pytest.raises(ProtocolError, match=f"residue chunk {index}: an update of this job has 2 chunks"):
        check_chunk(b"", index, layout)


def test_a_whole_chunk_in_the_place_of_the_last_is_oversized():
    layout = Layout(ONE_CHUNK + 1)
    with pytest.raises(ProtocolError, match="is oversized"):
        check_chunk(chunk_of(layout, 0), 1, layout)


@pytest.mark.parametrize(("size", "kind"), [(63, "truncated"), (65, "oversized")])
def test_seeds_of_another_length_are_refused(size, kind):
    with pytest.raises(ProtocolError, match=f"seeds: are {kind}: {size} bytes, expected 64") as caught:
        check_seeds(bytes(size), Layout(1), sender="hospital-b")
    assert caught.value.sender == "hospital-b"


def test_addition_is_modulo_p():
    rng = np.random.default_rng(5)
    total, *updates = rng.integers(0, PRIME, (5, 3 * DEGREE), dtype=np.uint64)
    updates[0][:3], total[:3] = (PRIME - 1, 0, 1), (PRIME - 1, 0, PRIME - 1)
    before = total.copy()
    for update in updates:
        add_into(total, update)
    exact = (before.astype(object) + np.sum([update.astype(object) for update in updates], axis=0)) % PRIME
    assert (total == exact).all()


def test_chunks_of_a_sum_are_what_was_added():
    layout = Layout(ONE_CHUNK + 8193)
    total, data = layout.empty_sum(), [np.random.default_rng(i).bytes(0) for i in range(2)]
    for index in range(layout.chunks):
        data[index] = chunk_of(layout, index, fill=index + 7)
        add_into(total[layout.chunk_span(index)], check_chunk(data[index], index, layout))
    assert [sum_chunk(total, index, layout) for index in range(2)] == data
    assert total.nbytes == layout.residue_bytes


@pytest.mark.parametrize(
    ("total", "summand"),
    [
        (np.zeros(DEGREE, np.uint64), np.zeros(2 * DEGREE, np.uint64)),
        (np.zeros(100, np.uint64), np.zeros(100, np.uint64)),
        (np.zeros(DEGREE, np.int64), np.zeros(DEGREE, np.uint64)),
        (np.zeros(2 * DEGREE, np.uint64)[::2], np.zeros(DEGREE, np.uint64)),
    ],
)
def test_adding_other_shapes_is_our_bug_and_changes_nothing(total, summand):
    with pytest.raises(InternalError, match="shapes differ"):
        add_into(total, summand)


def test_root_is_the_tree_hash_of_rfc_6962():
    # Entries and root of the test tree of certificate-transparency's reference implementation.
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [chunk_leaf(bytes.fromhex(entry)) for entry in entries]
    assert chunks_root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert chunks_root(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert chunks_root(leaves[:5]).hex() == "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"


def test_a_tree_of_no_chunks_is_our_bug():
    with pytest.raises(InternalError, match="no chunks"):
        chunks_root([])


@pytest.mark.parametrize(("silos", "field_bits"), [(1, 16), (2, 17), (3, 18), (4, 18), (5, 19), (17, 21), (32, 21)])
def test_a_field_holds_the_sum_of_all_silos(silos, field_bits):
    params = GroupParams(16, silos)
    assert params.field_bits == field_bits
    assert params.largest_sum(silos) < 1 << field_bits


@pytest.mark.parametrize(("bits", "silos"), [(7, 4), (17, 4), (16, 0), (16, 33)])
def test_parameters_outside_what_was_measured_are_refused(bits, silos):
    with pytest.raises(ConfigError, match=r"grid\.bits: 7|grid\.bits: 17|at most 32"):
        GroupParams(bits, silos)


def test_what_an_aggregator_needs_opens_nothing():
    program = "import sys, privacy.ckks.layout; print(*[m for m in ('tenseal', 'torch', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
