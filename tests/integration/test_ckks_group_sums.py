"""Real TenSEAL: what is sealed by n silos and added opens to the exact sum, or to nothing."""

import os

import numpy as np
import pytest

from privacy.ckks import group
from privacy.ckks.group import GroupKey, open_sum, seal
from privacy.ckks.layout import CHUNK_BLOCKS, Layout
from privacy.ckks.params import GroupParams
from privacy.errors import InternalError, ProtocolError, VerificationError
from tests.cohort import add_updates, open_all, seal_update

VALUES = 8192 + 4500  # two blocks, the second with a part of its high fields


@pytest.fixture(scope="module")
def key():
    return GroupKey.generate()


@pytest.fixture(scope="module")
def pair(key):
    """Two updates, their sum's chunks and their seeds."""
    params, layout = GroupParams(16, 4), Layout(VALUES)
    grids = [random_grid(seed) for seed in (1, 2)]
    updates = [seal_update(key, params, grid) for grid in grids]
    return params, layout, grids, updates, add_updates(layout, updates)


def random_grid(seed, bits=16, values=VALUES):
    return np.random.default_rng(seed).integers(0, 1 << bits, values, dtype=np.uint16)


def grids_of(kind, silos, bits):
    top = (1 << bits) - 1
    match kind:
        case "random":
            return [random_grid(seed, bits) for seed in range(silos)]
        case "zeros":
            return [np.zeros(VALUES, np.uint16)] * silos
        case "tops":
            return [np.full(VALUES, top, np.uint16)] * silos
        case "low-fields":
            return [np.where(np.arange(VALUES) % 8192 < 4096, top, 0).astype(np.uint16)] * silos
        case _:
            return [np.where(np.arange(VALUES) % 8192 < 4096, 0, top).astype(np.uint16)] * silos


@pytest.mark.parametrize("kind", ["random", "zeros", "tops", "low-fields", "high-fields"])
@pytest.mark.parametrize(("silos", "bits"), [(1, 16), (2, 8), (2, 16), (4, 16), (16, 16), (32, 16)])
def test_the_sum_is_exact(key, kind, silos, bits):
    params, layout = GroupParams(bits, silos), Layout(VALUES)
    grids = grids_of(kind, silos, bits)
    updates = [seal_update(key, params, grid) for grid in grids]
    opened = open_all(key, params, layout, add_updates(layout, updates), [update.seeds for update in updates])
    assert opened.dtype == np.uint32
    assert np.array_equal(opened, np.sum(grids, axis=0, dtype=np.uint32))


def test_fewer_may_be_in_the_sum_than_the_round_allows(key):
    params, layout, grids = GroupParams(16, 32), Layout(VALUES), [random_grid(1), random_grid(2)]
    updates = [seal_update(key, params, grid) for grid in grids]
    opened = open_all(key, params, layout, add_updates(layout, updates), [update.seeds for update in updates])
    assert np.array_equal(opened, np.sum(grids, axis=0, dtype=np.uint32))


def test_an_update_of_several_chunks(key):
    values = 8192 * CHUNK_BLOCKS + 1
    params, layout, grid = GroupParams(16, 2), Layout(values), random_grid(3, values=values)
    update = seal_update(key, params, grid)
    assert len(update.chunks) == 2
    assert np.array_equal(open_all(key, params, layout, update.chunks, [update.seeds]), grid)


def test_the_mailed_key_opens_what_the_dealers_key_sealed(key, pair):
    params, layout, grids, updates, chunks = pair
    mailed = GroupKey.from_bytes(key.to_bytes())
    assert len(key.to_bytes()) == group.KEY_BYTES == 1024
    opened = open_all(mailed, params, layout, chunks, [update.seeds for update in updates])
    assert np.array_equal(opened, np.sum(grids, axis=0, dtype=np.uint32))


def test_equal_updates_give_unequal_ciphertexts(key):
    first, second = seal(key, GroupParams(16, 2), [random_grid(1)[:8192]] * 2)
    assert first.seed != second.seed
    assert np.mean(np.frombuffer(first.residues, "<u8") == np.frombuffer(second.residues, "<u8")) == 0


def test_two_keys_differ_and_say_nothing_of_themselves(key):
    other = GroupKey.generate()
    assert other.to_bytes() != key.to_bytes()
    assert repr(key) == "GroupKey()"
    digits = (np.frombuffer(key.to_bytes(), np.uint8)[:, None] >> np.arange(0, 8, 2)) & 3
    # uniform ternary: each count is 1365 with a standard deviation of 30
    assert np.bincount(digits.ravel(), minlength=4)[3] == 0
    assert (np.abs(np.bincount(digits.ravel())[:3] - 4096 / 3) < 240).all()


def test_commitments_tell_keys_and_plans_apart(key):
    again, other = GroupKey.from_bytes(key.to_bytes()), GroupKey.generate()
    assert key.commitment(b"plan") == again.commitment(b"plan")
    assert len({key.commitment(b"plan"), key.commitment(b"other plan"), other.commitment(b"plan")}) == 3


@pytest.mark.parametrize(("data", "why"), [(b"", "has 0 bytes"), (bytes(1025), "1025"), (b"\xff" * 1024, "ternary")])
def test_a_mail_that_is_no_key_is_refused(data, why):
    with pytest.raises(ProtocolError, match=f"cohort key: .*{why}.*dealer must deal"):
        GroupKey.from_bytes(data)


def test_another_key_does_not_open(pair):
    params, layout, _, updates, chunks = pair
    with pytest.raises(VerificationError, match="wrong key, or an altered sum"):
        open_all(GroupKey.generate(), params, layout, chunks, [update.seeds for update in updates])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda chunks: [chunks[0][:-1]], "is truncated"),
        (lambda chunks: [chunks[0] + b"\0"], "is oversized"),
        (lambda chunks: [b"\xff" * len(chunks[0])], "not reduced"),
        (lambda chunks: [], "has 0 chunks, expected 1"),
        (lambda chunks: chunks * 2, "residue chunk 1: an update of this job has 1 chunks"),
    ],
)
def test_chunks_of_another_layout_are_the_aggregators_fault(key, pair, change, why):
    params, layout, _, updates, chunks = pair
    with pytest.raises(ProtocolError, match=why):
        open_all(key, params, layout, change(chunks), [update.seeds for update in updates])


def test_seeds_of_another_length_are_refused_before_anything_is_opened(key, pair):
    params, layout, _, updates, chunks = pair
    with pytest.raises(ProtocolError, match="seeds: are truncated"):
        open_sum(key, params, layout, chunks, [updates[0].seeds, updates[1].seeds[:-1]])


def test_a_sum_of_nobody_or_of_too_many_is_refused(key, pair):
    _, layout, _, updates, chunks = pair
    with pytest.raises(VerificationError, match="of 0 updates, the round allows 1 to 4"):
        open_sum(key, GroupParams(16, 4), layout, chunks, [])
    with pytest.raises(VerificationError, match="of 2 updates, the round allows 1 to 1"):
        open_sum(key, GroupParams(16, 1), layout, chunks, [update.seeds for update in updates])


def test_only_the_last_block_may_be_short(key):
    with pytest.raises(InternalError, match="follows one that was not full"):
        list(seal(key, GroupParams(16, 2), [random_grid(1)[:10], random_grid(1)[:10]]))


def test_something_after_the_last_value_is_refused(key):
    update = seal_update(key, GroupParams(16, 2), np.ones(100, np.uint16))
    with pytest.raises(VerificationError, match="holds something after its last value"):
        open_all(key, GroupParams(16, 2), Layout(99), update.chunks, [update.seeds])


def test_no_descriptor_is_left_open(key, pair):
    params, layout, _, updates, chunks = pair
    before = set(os.listdir("/proc/self/fd"))
    open_all(key, params, layout, chunks, [update.seeds for update in updates])
    blocks = seal(key, params, iter([random_grid(1)[:8192]] * 3))
    next(blocks)
    blocks.close()
    assert set(os.listdir("/proc/self/fd")) == before
