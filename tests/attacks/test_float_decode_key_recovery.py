"""Li and Micciancio (Eurocrypt 2021): a published float decode of a CKKS ciphertext gives its secret key away.

The flaw: a system that publishes what CKKS' `decode` gives, floats as they are. They are the noisy plaintext m;
encoding them again gives m exactly, and s = (m - c0) / c1 for every coefficient. Whoever has the ciphertext, here the
aggregator, then has the key. What `open_sum` returns are integers without the noise, and the same attack gets nothing.
"""

import numpy as np
import pytest
import tenseal.sealapi as seal_api

from privacy.ckks.group import GroupKey, _context, _MemoryFile, _Opener, open_sum
from privacy.ckks.layout import Layout
from privacy.ckks.packing import pack
from privacy.ckks.params import DEGREE, PRIME, SCALE, GroupParams
from privacy.ckks.sealstream import ciphertext_stream
from privacy.ckks.ternary import secret_to_residues
from tests.cohort import seal_update

PARAMS, LAYOUT = GroupParams(16, 4), Layout(8192)


@pytest.fixture(scope="module")
def key():
    return GroupKey.generate()


@pytest.fixture(scope="module")
def update(key):
    return seal_update(key, PARAMS, np.random.default_rng(0).integers(0, 2**16, 8192, dtype=np.uint16))


def ciphertext(update):
    """(c0, c1) in NTT form, from public bytes alone."""
    context, loaded = _context(), seal_api.Ciphertext()
    with _MemoryFile() as memory:
        memory.write(ciphertext_stream(context.first_parms_id(), update.chunks[0], update.seeds))
        loaded.load(context, memory.path)
    data = loaded.dyn_array()
    return [data.at(i) for i in range(DEGREE)], [data.at(DEGREE + i) for i in range(DEGREE)]


def guess_key(update, published):
    """What an attacker computes from a ciphertext and published slots: the key, coefficient by coefficient."""
    plain = seal_api.Plaintext()
    seal_api.CKKSEncoder(_context()).encode(list(published), float(SCALE), plain)
    c0, c1 = ciphertext(update)
    return [(plain.data(i) - c0[i]) * pow(c1[i], -1, PRIME) % PRIME for i in range(DEGREE)]


def recovered(key, guess):
    return sum(int(a) == b for a, b in zip(secret_to_residues(key.to_bytes()), guess, strict=True))


def test_a_float_decode_gives_the_whole_key(key, update):
    floats = _Opener(key).decode(update.chunks[0], [update.seeds])
    assert recovered(key, guess_key(update, floats.tolist())) == DEGREE


def test_what_the_suite_returns_gives_nothing_of_the_key(key, update):
    (opened,) = open_sum(key, PARAMS, LAYOUT, update.chunks, [update.seeds])
    assert opened.dtype == np.uint32
    assert recovered(key, guess_key(update, pack(opened.astype(np.uint16), PARAMS))) == 0
