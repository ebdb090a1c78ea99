"""Packing, the key's encoding and SEAL's stream layout, without SEAL."""

import numpy as np
import pyarrow
import pytest

from privacy.ckks.packing import pack, unpack
from privacy.ckks.params import BLOCK_BYTES, DEGREE, PRIME, GroupParams
from privacy.ckks.sealstream import ciphertext_stream, split_ciphertext
from privacy.ckks.ternary import SECRET_BYTES, residues_to_secret, secret_to_residues
from privacy.errors import InternalError, ProtocolError, VerificationError

PARAMS = GroupParams(16, 4)
PARMS_ID = [1, 2, 3, 2**63]
RESIDUES = bytes(range(256)) * (BLOCK_BYTES // 256)
SEED = bytes(range(64))


def block(size=8192, seed=0):
    return np.random.default_rng(seed).integers(0, 2**16, size, dtype=np.uint16)


def slots(*blocks, params=PARAMS):
    return np.sum([np.array(pack(grid, params)) for grid in blocks], axis=0)


@pytest.mark.parametrize("members", [1, 4])
def test_unpack_gives_the_exact_sums_despite_noise(members):
    blocks = [block(seed=i) for i in range(members)]
    noise = np.random.default_rng(9).uniform(-0.24, 0.24, (2, 2048))
    opened = unpack(slots(*blocks) + noise[0] + 1j * noise[1], PARAMS, members)
    assert np.array_equal(opened, np.sum(blocks, axis=0, dtype=np.uint32))


@pytest.mark.parametrize("size", [1, 4096, 4097, 8191])
def test_a_short_block_is_filled_with_zeros(size):
    grid = block(size)
    opened = unpack(slots(grid), PARAMS, 1)
    assert np.array_equal(opened[:size], grid)
    assert not opened[size:].any()


def test_a_field_full_to_the_brim_does_not_reach_its_neighbour():
    full = np.full(8192, 65535, np.uint16)
    half = np.where(np.arange(8192) < 4096, full, 0).astype(np.uint16)
    assert set(unpack(slots(full, full, full, full), PARAMS, 4)) == {4 * 65535}
    assert np.array_equal(unpack(slots(half, half, half, half), PARAMS, 4), half * np.uint32(4))


@pytest.mark.parametrize("error", [0.26, -0.26, 0.5, np.nan, 1j * 0.3])
def test_a_decode_that_is_far_from_integers_is_refused(error):
    noisy = slots(block())
    noisy[77] += error
    with pytest.raises(VerificationError, match="wrong key, or an altered sum"):
        unpack(noisy, PARAMS, 1)


@pytest.mark.parametrize("extra", [-1, 2.0**60, float("inf")])
def test_a_sum_out_of_range_is_refused(extra):
    noisy = slots(np.zeros(8192, np.uint16))
    noisy[5] += extra
    with pytest.raises(VerificationError, match="opened sum"):
        unpack(noisy, PARAMS, 1)


def test_a_sum_of_more_updates_than_named_is_refused():
    full = np.full(8192, 65535, np.uint16)
    with pytest.raises(VerificationError, match="no 1 updates add up to"):
        unpack(slots(full, full), PARAMS, 1)


@pytest.mark.parametrize("grid", [np.zeros(0, np.uint16), np.zeros(8193, np.uint16), np.full(5, 256, np.uint16)])
def test_a_block_that_does_not_fit_is_our_bug(grid):
    with pytest.raises(InternalError, match="8192 values of the plan's bits"):
        pack(grid, GroupParams(8, 4))


def test_the_secret_s_transform_is_evaluation_at_the_odd_powers_of_a_root():
    """X's transform holds every primitive 2N-th root once; multiplication is pointwise (X * X = X^2)."""
    x, x2 = (bytearray(SECRET_BYTES) for _ in range(2))
    x[0], x2[0] = 1 << 2, 1 << 4
    first, second = (secret_to_residues(bytes(secret)).astype(object) for secret in (x, x2))
    assert len(set(first)) == DEGREE
    assert all(pow(value, DEGREE, PRIME) == PRIME - 1 for value in first)
    assert (first * first % PRIME == second).all()


def test_a_secret_survives_its_encoding():
    digits = np.random.default_rng(3).integers(0, 3, DEGREE, dtype=np.uint8)
    secret = np.bitwise_or.reduce(digits.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8), axis=1).tobytes()
    assert residues_to_secret(secret_to_residues(secret)) == secret


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (b"", "has 0 bytes, expected 1024"),
        (bytes(1023), "has 1023 bytes, expected 1024"),
        (b"\x01" * 1025, "has 1025 bytes, expected 1024"),
        (b"\x03" + b"\x01" * 1023, "is not an encoded ternary secret"),
        (bytes(1024), "is not an encoded ternary secret"),
    ],
)
def test_bytes_that_are_no_secret_are_refused(secret, why):
    with pytest.raises(ProtocolError, match=f"cohort key: {why}"):
        secret_to_residues(secret)


def test_residues_that_are_no_ternary_secret_are_refused():
    with pytest.raises(InternalError, match="not ternary"):
        residues_to_secret(np.full(DEGREE, 2, np.uint64))


def compressed(stream):
    body = pyarrow.compress(stream[16:], codec="zstd", asbytes=True)
    return stream[:5] + b"\x02" + stream[6:8] + (len(body) + 16).to_bytes(8, "little") + body


def test_a_stream_is_split_into_what_it_was_made_of():
    stream = ciphertext_stream(PARMS_ID, RESIDUES, SEED)
    assert stream[:6].hex() == "5ea110040300"  # compression none
    assert len(stream) == int.from_bytes(stream[8:16], "little") == 32962
    assert split_ciphertext(stream, PARMS_ID) == (RESIDUES, SEED)
    assert split_ciphertext(compressed(stream), PARMS_ID) == (RESIDUES, SEED)


@pytest.mark.parametrize(("residues", "seed"), [(RESIDUES[:-1], SEED), (RESIDUES, SEED + b"\0"), (b"", b"")])
def test_a_stream_has_one_size(residues, seed):
    with pytest.raises(InternalError, match="wrong length"):
        ciphertext_stream(PARMS_ID, residues, seed)


@pytest.mark.parametrize("place", [0, 2, 3, 4, 5, 6, 8, 16, 48, 49, 57, 65, 73, 81, 89, 105, 32881, 32897])
def test_any_other_byte_round_the_residues_is_refused(place):
    stream = bytearray(ciphertext_stream(PARMS_ID, RESIDUES, SEED))
    stream[place] ^= 1
    with pytest.raises(InternalError, match="SEAL stream"):
        split_ciphertext(bytes(stream), PARMS_ID)


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: b"",
        lambda stream: stream[:-1],
        lambda stream: stream + b"\0",
        lambda stream: compressed(stream)[:200],
        lambda stream: compressed(stream + b"\0"),
        lambda stream: compressed(stream[:-1]),
    ],
)
def test_a_stream_of_another_length_is_refused(change):
    with pytest.raises(InternalError, match="SEAL stream"):
        split_ciphertext(change(ciphertext_stream(PARMS_ID, RESIDUES, SEED)), PARMS_ID)
