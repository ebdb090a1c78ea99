"""Sealing and opening: exact sums against the reference and plain addition, one use a key and a pad, refusals."""

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from privacy.ckks.multikey import OneTimeKey, Pad, open_sum, seal
from privacy.ckks.multikey_layout import MultikeyLayout, add_into, check_chunk, sum_chunk
from privacy.ckks.multikey_params import DEGREES, SCALE, VARIANCE, MultikeyParams
from privacy.ckks.ring import ring_of
from privacy.ckks.sampling import SecureBits, draw_gaussian
from privacy.ckks.shares import add_shares, encode_share
from privacy.ckks.shares import open_sum as open_key_sum
from privacy.errors import CloisterError, ConfigError, InternalError, ProtocolError, VerificationError
from tests import reference_multikey as reference
from tests.reference_ring import VECTORS as FOLDER

VECTORS = json.loads((FOLDER / "multikey.json").read_text())
ROUND, OTHER_ROUND = (hashlib.sha256(name).digest() for name in (b"round 1", b"round 2"))
SMALL = MultikeyParams("small", 4, 16)  # 4 fields


class Silo:
    """One silo's part in a round."""

    def __init__(self, layout, grid, ctx=ROUND, stream_key=None):
        bits = SecureBits() if stream_key is None else SecureBits.from_key_for_tests(stream_key)
        self.key = OneTimeKey.generate(layout.params, bits)
        self.coefficients = np.frombuffer(self.key.to_bytes(), np.int8).astype(np.int32)
        self.chunks = list(seal(self.key.pads(ctx, layout, bits), layout, blocks_of(layout, grid)))


def blocks_of(layout, grid):
    size = layout.params.values_per_block
    return [grid[start : start + size] for start in range(0, len(grid), size)]


def random_grid(layout, seed):
    top = layout.params.largest_sum(1)
    return np.random.default_rng(seed).integers(0, top + 1, layout.values).astype(np.uint16)


def add_up(layout, updates):
    """What the aggregator commits to."""
    total = layout.empty_sum()
    for chunks in updates:
        for index, chunk in enumerate(chunks):
            add_into(total[layout.chunk_span(index)], check_chunk(chunk, index, layout), layout)
    return [sum_chunk(total, index, layout) for index in range(layout.chunks)]


def opened(layout, silos, chunks, ctx=ROUND):
    key = np.sum([silo.coefficients for silo in silos], axis=0, dtype=np.int32)
    return np.concatenate(list(open_sum(key, ctx, layout, len(silos), chunks)))


def round_of(layout, grids):
    silos = [Silo(layout, grid) for grid in grids]
    return silos, add_up(layout, [silo.chunks for silo in silos])


def grid_of(vector, silo):
    return np.array(reference.words_of(silo["grid_of"], vector["values"], vector["grid_bits"]), np.uint16)


@pytest.mark.parametrize(
    ("vector", "case"),
    [
        pytest.param(*both, marks=[pytest.mark.slow] if both[0]["set"] == "large" else [])
        for both in zip(VECTORS, reference.CASES, strict=True)
    ],
)
def test_the_vectors_are_what_the_reference_makes(vector, case):
    assert json.loads(json.dumps(reference.multikey_vector(case))) == vector


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["set"])
def test_sealing_and_opening_are_the_reference_s(vector):
    params = MultikeyParams(vector["set"], vector["participants"], vector["grid_bits"])
    layout, ctx = MultikeyLayout(vector["values"], params), bytes.fromhex(vector["ctx"])
    silos = [Silo(layout, grid_of(vector, silo), ctx, bytes.fromhex(silo["keystream_key"])) for silo in vector["silos"]]
    for silo, expected in zip(silos, vector["silos"], strict=True):
        assert hashlib.sha256(silo.key.to_bytes()).hexdigest() == expected["key_sha256"]
        assert reference.shown(b"".join(silo.chunks)) == expected["update"]
    total = add_up(layout, [silo.chunks for silo in silos])
    assert reference.shown(b"".join(total)) == vector["sum"]
    assert reference.shown(opened(layout, silos, total, ctx).astype("<u4").tobytes()) == vector["opened"]


@pytest.mark.parametrize("case", VECTORS[0]["openings"], ids=lambda case: case["name"])
def test_what_opens_and_what_is_refused_is_the_reference_s(case):
    vector = VECTORS[0]
    params = MultikeyParams(vector["set"], vector["participants"], vector["grid_bits"])
    layout = MultikeyLayout(vector["values"], params)
    drawn = [
        draw_gaussian(VARIANCE, params.degree, SecureBits.from_key_for_tests(bytes.fromhex(silo["keystream_key"])))
        for silo in vector["silos"]
    ]
    total_key = np.sum([drawn[i] for i in case["keys_of"]], axis=0, dtype=np.int32)
    chunks = [bytes.fromhex(case["chunk"])]
    sums = open_sum(total_key, bytes.fromhex(case["ctx"]), layout, len(vector["silos"]), chunks)
    if "error" not in case:
        assert reference.shown(np.concatenate(list(sums)).astype("<u4").tobytes()) == case["opened"]
        return
    with pytest.raises(CloisterError, match=case["message"]) as caught:
        list(sums)
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("participants", [3, 4, 10])
@pytest.mark.parametrize("name", DEGREES)
def test_sums_are_exact(name, participants):
    params = MultikeyParams(name, participants, 16)
    layout = MultikeyLayout(params.values_per_block + 777, params)
    grids = [random_grid(layout, seed) for seed in range(participants)]
    silos, total = round_of(layout, grids)
    assert np.array_equal(opened(layout, silos, total), np.sum(grids, axis=0, dtype=np.uint32))


@pytest.mark.parametrize("name", DEGREES)
def test_a_hundred_silos_fill_every_field_to_its_greatest_sum(name):
    params = MultikeyParams(name, 100, 16)
    layout = MultikeyLayout(32 * params.fields, params)
    assert layout.width(0) * params.fields == layout.values
    grids = [np.full(layout.values, 65_535, np.uint16)] * 100
    silos, total = round_of(layout, grids)
    assert opened(layout, silos, total).tolist() == [6_553_500] * layout.values


def test_updates_of_zeros_sum_to_zeros():
    layout = MultikeyLayout(100, SMALL)
    silos, total = round_of(layout, [np.zeros(100, np.uint16)] * 4)
    assert not opened(layout, silos, total).any()


def test_blocks_come_with_as_many_values_as_were_sealed():
    layout = MultikeyLayout(16_384 + 5, SMALL)
    silos, total = round_of(layout, [random_grid(layout, seed) for seed in range(3)])
    key = np.sum([silo.coefficients for silo in silos], axis=0, dtype=np.int32)
    sums = list(open_sum(key, ROUND, layout, 3, total))
    assert [(len(part), part.dtype) for part in sums] == [(16_384, np.uint32), (5, np.uint32)]


def test_a_whole_round_opens_by_the_shares_of_some_participants():
    """Ten participants, seven of them in U, keys shared at 7 of 10; three are gone at release and one share is bad."""
    params = MultikeyParams("small", 10, 16)
    layout, points, members = MultikeyLayout(500, params), range(1, 11), 7
    grids = [random_grid(layout, seed) for seed in range(members)]
    silos, total = round_of(layout, grids)
    dealt = [silo.key.deal(5, points, SecureBits()) for silo in silos]
    released = {x: add_shares([rows[x - 1] for rows in dealt]) for x in points if x not in (2, 5, 9)}
    released[3] = released[3] ^ np.uint16(1)
    total_key, wrong = open_key_sum(released, 5, params.bound(members), SecureBits().take)
    assert wrong == (3,)
    sums = np.concatenate(list(open_sum(total_key, ROUND, layout, members, total)))
    assert np.array_equal(sums, np.sum(grids, axis=0, dtype=np.uint32))


def test_every_key_is_fresh_and_equal_updates_look_different():
    layout = MultikeyLayout(100, SMALL)
    first, second = (Silo(layout, np.zeros(100, np.uint16)) for _ in range(2))
    assert first.key.to_bytes() != second.key.to_bytes()
    assert first.chunks != second.chunks


def test_noise_is_fresh_in_every_block_and_as_wide_as_the_parameters_say():
    """No sum would show that it is missing."""
    layout, ring = MultikeyLayout(2 * 16_384, SMALL), ring_of(4096)
    silo = Silo(layout, np.zeros(layout.values, np.uint16))
    key = ring.multiplier(silo.coefficients)
    noises = []
    for block, residues in enumerate(check_chunk(silo.chunks[0], 0, layout)):
        noise = ring.product(reference_common(block), key)
        ring.add(noise, residues)
        centred = noise[0].astype(np.int64)
        centred[centred > ring.primes[0] // 2] -= ring.primes[0]
        assert np.array_equal(ring.lift(centred.astype(np.int32)), noise)
        noises.append(centred)
    for sample in (silo.coefficients, *noises):
        assert 0.9 < sample.var() / float(VARIANCE) < 1.1  # 4096 samples: 4.5 standard deviations either way
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.1


def reference_common(block):
    """a_k in NTT form, from the text of its specification."""
    rows = [reference.common_row(ROUND, block, prime, 4096) for prime in ring_of(4096).primes]
    return np.array(rows, np.uint32)


def test_a_key_makes_its_pads_once():
    layout, bits = MultikeyLayout(100, SMALL), SecureBits()
    key = OneTimeKey.generate(SMALL, bits)
    key.pads(ROUND, layout, bits)  # even if nobody takes them
    for ctx in (ROUND, OTHER_ROUND):
        with pytest.raises(InternalError, match="one-time key: was used before"):
            key.pads(ctx, layout, bits)


def test_a_key_that_was_stored_can_be_dealt_and_makes_no_pads():
    key = OneTimeKey.generate(SMALL, SecureBits())
    stored = OneTimeKey.from_bytes(key.to_bytes(), SMALL)
    assert stored.to_bytes() == key.to_bytes()
    rows = [k.deal(3, [1, 2, 3, 4], SecureBits.from_key_for_tests(bytes(32))) for k in (key, stored)]
    assert encode_share(rows[0]) == encode_share(rows[1])
    with pytest.raises(InternalError, match="one-time key: was used before"):
        stored.pads(ROUND, MultikeyLayout(1, SMALL), SecureBits())


@pytest.mark.parametrize(
    "data",
    [b"", bytes(4095), bytes(4097), bytes(4095) + b"\x7f", bytes(4095) + b"\x80", b"\xa6" + bytes(4095)],
    ids=["empty", "short", "long", "127", "-128", "-90"],
)
def test_stored_bytes_that_are_no_key_are_refused(data):
    with pytest.raises(ConfigError, match="one-time key: the stored one is not 4096 coefficients from -"):
        OneTimeKey.from_bytes(data, SMALL)


def test_the_widest_key_that_can_be_drawn_can_be_stored():
    class Extreme(SecureBits):
        def take(self, count):
            return b"\xff" * count

    key = OneTimeKey.generate(SMALL, Extreme())
    stored = np.frombuffer(key.to_bytes(), np.int8)
    assert (stored < -80).all()
    assert OneTimeKey.from_bytes(key.to_bytes(), SMALL).to_bytes() == key.to_bytes()


def test_a_pad_hides_one_block_once():
    layout, bits = MultikeyLayout(100, SMALL), SecureBits()
    grid = random_grid(layout, 1)
    pads = list(OneTimeKey.generate(SMALL, bits).pads(ROUND, layout, bits))
    list(seal(pads, layout, [grid]))
    with pytest.raises(InternalError, match="pad of block 0: was used before"):
        list(seal(pads, layout, [grid]))


def test_secrets_are_not_copied_and_do_not_show_themselves():
    bits = SecureBits()
    key = OneTimeKey.generate(SMALL, bits)
    (pad,) = key.pads(ROUND, MultikeyLayout(1, SMALL), bits)
    for secret in (key, pad):
        assert repr(secret) == object.__repr__(secret)
        for duplicate in (copy.deepcopy, pickle.dumps):
            with pytest.raises(InternalError, match="is not to be copied"):
                duplicate(secret)


def test_a_shallow_copy_of_a_pad_is_the_same_pad():
    layout, bits = MultikeyLayout(1, SMALL), SecureBits()
    (pad,) = OneTimeKey.generate(SMALL, bits).pads(ROUND, layout, bits)
    twin, grid = copy.copy(pad), np.zeros(1, np.uint16)
    list(seal([pad], layout, [grid]))
    with pytest.raises(InternalError, match="was used before"):
        list(seal([twin], layout, [grid]))


FORK = """
import os
import numpy as np
from privacy.ckks.multikey import OneTimeKey, seal
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import MultikeyParams
from privacy.ckks.sampling import SecureBits
from privacy.errors import InternalError
params, bits = MultikeyParams("small", 4, 16), SecureBits()
layout = MultikeyLayout(1, params)
fresh, used = (OneTimeKey.generate(params, bits) for _ in range(2))
pads = list(used.pads(bytes(32), layout, bits))
child = os.fork()
if child == 0:
    refused = 0
    for use in (lambda: fresh.pads(bytes(32), layout, SecureBits()),
                lambda: list(seal(pads, layout, [np.zeros(1, np.uint16)]))):
        try:
            use()
        except InternalError as error:
            refused += "a parent process's" in str(error)
    os._exit(refused)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
list(seal(pads, layout, [np.zeros(1, np.uint16)]))
fresh.pads(bytes(32), layout, bits)
"""


def test_a_forked_process_can_use_neither_its_parent_s_key_nor_its_pads():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pads_of(layout):
    bits = SecureBits()
    return list(OneTimeKey.generate(layout.params, bits).pads(ROUND, layout, bits))


LAYOUT = MultikeyLayout(16_384 + 100, SMALL)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda pads, grids: (pads[:1], grids), "pad of block 1: is missing, or is another's"),
        (lambda pads, grids: (pads[::-1], grids), "pad of block 0: is missing, or is another's"),
        (lambda pads, grids: (pads_of(MultikeyLayout(16_384, SMALL)), grids), "pad of block 0: is missing, or is anot"),
        (lambda pads, grids: (pads * 2, grids), "update: has more than its 2 blocks"),
        (lambda pads, grids: (pads, grids[:1]), "grid block 1: is missing"),
        (lambda pads, grids: (pads, grids + grids), "update: has more than its 2 blocks"),
        (lambda pads, grids: (pads, grids[::-1]), "grid block 0: is missing, or is not its values"),
        (lambda pads, grids: (pads, [grids[0], grids[1][:-1]]), "grid block 1: is missing, or is not its values"),
        (lambda pads, grids: (pads, [grids[0], grids[1].reshape(10, 10)]), "grid block 1: is missing, or is not its"),
        (lambda pads, grids: (pads, [grids[0], grids[1] + np.uint32(65_536)]), "grid block 1: .* of the plan's bits"),
    ],
)
def test_blocks_and_pads_that_do_not_belong_together_are_our_bug(change, why):
    pads, grids = change(pads_of(LAYOUT), blocks_of(LAYOUT, np.ones(LAYOUT.values, np.uint16)))
    with pytest.raises(InternalError, match=why):
        list(seal(pads, LAYOUT, grids))


def test_values_of_more_bits_than_the_plan_s_are_our_bug():
    layout = MultikeyLayout(2, MultikeyParams("small", 4, 8))
    with pytest.raises(InternalError, match="grid block 0: is missing, or is not its values of the plan's bits"):
        list(seal(pads_of(layout), layout, [np.array([255, 256], np.uint16)]))


def test_a_digest_of_another_length_is_our_bug():
    layout, bits = MultikeyLayout(1, SMALL), SecureBits()
    key = OneTimeKey.generate(SMALL, bits)
    with pytest.raises(InternalError, match="round digest: has 31 bytes"):
        key.pads(bytes(31), layout, bits)
    with pytest.raises(InternalError, match="round digest: has 33 bytes"):
        open_sum(np.zeros(4096, np.int32), bytes(33), layout, 3, [])


def test_a_key_of_another_set_is_our_bug():
    layout = MultikeyLayout(1, MultikeyParams("default", 4, 16))
    with pytest.raises(InternalError, match="small polynomial"):
        OneTimeKey.generate(SMALL, SecureBits()).pads(ROUND, layout, SecureBits())
    with pytest.raises(InternalError, match="small polynomial"):
        open_sum(np.zeros(4096, np.int32), ROUND, layout, 3, [])


def flip(chunk, bit):
    changed = bytearray(chunk)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def swap(chunk):
    half = len(chunk) // 2
    return chunk[half:] + chunk[:half]


TWO_BLOCKS = MultikeyLayout(2 * 16_384, SMALL)


@pytest.fixture(scope="module")
def made():
    """(silos, chunks of their sum, the exact sum)."""
    grids = [random_grid(TWO_BLOCKS, seed) for seed in range(4)]
    return *round_of(TWO_BLOCKS, grids), np.sum(grids, axis=0, dtype=np.uint32)


@pytest.mark.parametrize(
    "altered",
    [
        lambda silos, total: {"chunks": [flip(total[0], 0)]},
        lambda silos, total: {"chunks": [flip(total[0], 31 * 4096 * 5 + 17)]},
        lambda silos, total: {"chunks": [flip(total[0], 8 * len(total[0]) - 20)]},
        lambda silos, total: {"chunks": [swap(total[0])]},
        lambda silos, total: {"chunks": add_up(TWO_BLOCKS, [silo.chunks for silo in silos[:3]])},
        lambda silos, total: {"chunks": add_up(TWO_BLOCKS, [silo.chunks for silo in silos + silos[:1]])},
        lambda silos, total: {"chunks": silos[0].chunks},
        lambda silos, total: {"silos": silos[:3]},
        lambda silos, total: {"silos": [*silos[:3], Silo(TWO_BLOCKS, random_grid(TWO_BLOCKS, 9))]},
        lambda silos, total: {"silos": [*silos[:3], silos[0]]},
        lambda silos, total: {"ctx": OTHER_ROUND},
    ],
    ids=[
        "first bit", "a bit of block 1", "a bit of the last residue", "swapped blocks", "a dropped update",
        "a doubled update", "one update alone", "a missing key", "a stranger's key", "a key twice", "another round",
    ],
)  # fmt: skip
def test_what_is_not_the_sum_of_these_keys_members_does_not_open(made, altered):
    silos, total, exact = made
    assert np.array_equal(opened(TWO_BLOCKS, silos, total), exact)
    with pytest.raises(VerificationError, match=r"opened sum: (has more noise than|holds values no)"):
        opened(TWO_BLOCKS, **{"silos": silos, "chunks": total} | altered(silos, total))


def test_a_swap_of_two_silos_blocks_is_found():
    """Silo 0's block 0 with silo 1's in the place of its block 1 and the other way round adds up to the same."""
    grids = [random_grid(TWO_BLOCKS, seed) for seed in range(3)]
    silos, total = round_of(TWO_BLOCKS, grids)
    halves = [(silo.chunks[0][:47_616], silo.chunks[0][47_616:]) for silo in silos]
    same_places = [[halves[0][0] + halves[1][1]], [halves[1][0] + halves[0][1]], silos[2].chunks]
    assert add_up(TWO_BLOCKS, same_places) == total
    moved = [[halves[0][0] + halves[1][0]], [halves[0][1] + halves[1][1]], silos[2].chunks]
    with pytest.raises(VerificationError, match="opened sum: has more noise than"):
        opened(TWO_BLOCKS, silos, add_up(TWO_BLOCKS, moved))


def test_an_encoding_that_the_aggregator_adds_is_not_found_here(made):
    """Delta * 1 in the first field of the first coefficient: only fingerprints tell (step 3)."""
    silos, total, exact = made
    residues = check_chunk(total[0], 0, TWO_BLOCKS)
    residues[0, :, 0] = [(int(r) + SCALE) % p for r, p in zip(residues[0, :, 0], SMALL.primes, strict=True)]
    altered = opened(TWO_BLOCKS, silos, [sum_chunk(residues, 0, TWO_BLOCKS)])
    assert altered[0] == exact[0] + 1
    assert np.array_equal(altered[1:], exact[1:])


@pytest.mark.parametrize("members", [0, 1, 2, 5])
def test_sums_of_too_few_or_too_many_are_not_opened(members):
    with pytest.raises(VerificationError, match=f"sum: is of {members} updates, the round allows 3 to 4"):
        open_sum(np.zeros(4096, np.int32), ROUND, TWO_BLOCKS, members, [])


@pytest.mark.parametrize("value", [177, -177, 178, -178, -(2**30) + 1])
def test_a_key_sum_beyond_its_bound_is_refused(value):
    total_key = np.zeros(4096, np.int32)
    total_key[4095] = value
    if abs(value) == 177:  # ceil(16 sqrt(40.5 * 3)) = ceil(176.4)
        open_sum(total_key, ROUND, TWO_BLOCKS, 3, [])
        return
    with pytest.raises(VerificationError, match=r"sum of keys: is not of 3 keys: a coefficient is beyond \+-177"):
        open_sum(total_key, ROUND, TWO_BLOCKS, 3, [])


def test_chunks_that_are_missing_or_surplus_are_refused(made):
    silos, total, _ = made
    with pytest.raises(ProtocolError, match="sum: has 0 chunks, expected 1"):
        opened_parts(silos, [])
    with pytest.raises(ProtocolError, match="residue chunk 1: an update of this job has 1 chunks"):
        opened_parts(silos, [*total, total[0]])
    with pytest.raises(ProtocolError, match="residue chunk 0: is truncated"):
        opened_parts(silos, [total[0][:-124]])


def opened_parts(silos, chunks):
    return list(open_sum(sum(silo.coefficients for silo in silos), ROUND, TWO_BLOCKS, 4, chunks))


def test_pads_are_made_by_another_thread_before_there_is_an_update():
    layout = MultikeyLayout(300, SMALL)
    bits = SecureBits()
    key = OneTimeKey.generate(SMALL, bits)
    with ThreadPoolExecutor(1) as pool:
        pads = pool.submit(list, key.pads(ROUND, layout, bits)).result()
    assert [(type(pad), pad.block) for pad in pads] == [(Pad, 0)]
    grid = random_grid(layout, 3)
    others = [Silo(layout, random_grid(layout, seed)) for seed in (1, 2)]
    total = add_up(layout, [list(seal(pads, layout, [grid])), *(silo.chunks for silo in others)])
    mine = np.frombuffer(key.to_bytes(), np.int8).astype(np.int32)
    key_sum = mine + others[0].coefficients + others[1].coefficients
    exact = grid.astype(np.uint32) + random_grid(layout, 1) + random_grid(layout, 2)
    assert np.array_equal(np.concatenate(list(open_sum(key_sum, ROUND, layout, 3, total))), exact)


WARM_UP_ALONE = """
import numpy as np
from privacy.ckks import multikey, multikey_fields, multikey_layout, residues, ring_kernels, sampling
from privacy.ckks.multikey_params import MultikeyParams
multikey.warm_up(MultikeyParams("small", 3, 8))
kernels = [kernel for module in (multikey_fields, multikey_layout, residues, ring_kernels, sampling)
           for kernel in vars(module).values() if getattr(kernel, "targetoptions", {}).get("nogil")]
compiled = {kernel: len(kernel.signatures) for kernel in kernels}
params, bits = MultikeyParams("default", 4, 16), sampling.SecureBits()
layout = multikey_layout.MultikeyLayout(100000, params)
key = multikey.OneTimeKey.generate(params, bits)
total_key = np.frombuffer(key.to_bytes(), np.int8).astype(np.int32)
grid = np.arange(100000).astype(np.uint16)
size = params.values_per_block
blocks = (np.frombuffer(grid[start : start + size].tobytes(), np.uint16) for start in range(0, 100000, size))
chunks = list(multikey.seal(key.pads(bytes(32), layout, bits), layout, blocks))
total = layout.empty_sum()
for index, chunk in enumerate(chunks):
    residue = multikey_layout.check_chunk(chunk, index, layout)
    multikey_layout.add_into(total[layout.chunk_span(index)], residue, layout)
parts = [multikey_layout.sum_chunk(total, index, layout) for index in range(layout.chunks)]
assert (np.concatenate(list(multikey.open_sum(total_key, bytes(32), layout, 3, parts))) == grid).all()
more = [kernel for kernel, count in compiled.items() if len(kernel.signatures) != count]
used = [kernel for kernel in compiled if kernel.signatures]
assert not more and len(used) >= 12, (more, used)
"""


def test_after_warming_up_nothing_is_left_to_compile():
    done = subprocess.run([sys.executable, "-c", WARM_UP_ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
