"""SEAL's own code as a judge of ours: it opens, decodes and makes polynomials in the same order, root and modulus.

A decryption alone would not tell: it is pointwise, so any order that we used throughout would do. What comes out is
therefore decoded by SEAL, which transforms it back, and a key that SEAL made is read by our transform.
"""

import os
import struct
from math import prod

import numpy as np
import pytest
import tenseal.sealapi as seal_api

from privacy.ckks.multikey_params import VARIANCE
from privacy.ckks.ring import Ring, ring_of
from privacy.ckks.ring_primes import ntt_primes
from privacy.ckks.sampling import SecureBits, draw_gaussian
from privacy.ckks.uniform import common_polynomial
from tests.reference_ring import combine

DEGREE, DELTA = 4096, 1 << 12
RING = ring_of(DEGREE)
# SEAL keeps the last prime for switching keys: ciphertexts have ours, keys one more.
KEY_RING = Ring(DEGREE, ntt_primes(DEGREE, 4))


@pytest.fixture(scope="module")
def context():
    parameters = seal_api.EncryptionParameters(seal_api.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([seal_api.Modulus(prime) for prime in KEY_RING.primes])
    context = seal_api.SEALContext(parameters, True, seal_api.SEC_LEVEL_TYPE.NONE)
    data = context.first_context_data()
    assert context.parameters_set()
    assert tuple(int(prime.value()) for prime in data.parms().coeff_modulus()) == RING.primes
    return context


def load(thing, context, body):
    descriptor = os.memfd_create("seal")
    try:
        os.write(descriptor, with_header(body))
        thing.load(context, f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return thing


def with_header(body):
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body


def array(residues):
    return with_header(struct.pack("<Q", residues.size) + residues.astype("<u8").tobytes())


def seal_key(context, key):
    """A key of signed coefficients as SEAL's object."""
    residues = KEY_RING.lift(key)
    KEY_RING.to_ntt(residues)
    head = struct.pack("<4QQd", *context.key_parms_id(), residues.size, 1.0)
    return load(seal_api.SecretKey(), context, head + array(residues))


def seal_ciphertext(context, masked, uniform):
    """(c, a) as SEAL's ciphertext, which opens to c + a s."""
    first = masked.copy()
    RING.to_ntt(first)
    head = struct.pack("<4QBQQQdQ", *context.first_parms_id(), 1, 2, DEGREE, len(RING.primes), float(DELTA), 1)
    return load(seal_api.Ciphertext(), context, head + array(np.stack((first, uniform))))


def lift_integers(values):
    return np.array([[value % prime for value in values] for prime in RING.primes], np.uint32)


def seal_two(message_bits):
    """Two silos' ciphertexts, added by us: (the sum, a, the sum of the keys, the integers within)."""
    bits, uniform = (
        SecureBits.from_key_for_tests(bytes([message_bits] * 32)),
        common_polynomial(bytes(32), 0, DEGREE, RING.primes),
    )
    total, keys, inside = np.zeros(RING.shape, np.uint32), np.zeros(DEGREE, np.int32), [0] * DEGREE
    for _ in range(2):
        key, noise = (draw_gaussian(VARIANCE, DEGREE, bits) for _ in range(2))
        message = [int.from_bytes(bits.take(10), "big") >> (80 - message_bits) for _ in range(DEGREE)]
        ciphertext = RING.mask(uniform, RING.multiplier(key), noise)
        RING.add(ciphertext, lift_integers([DELTA * m for m in message]))
        RING.add(total, ciphertext)
        keys += key
        inside = [old + DELTA * m + int(e) for old, m, e in zip(inside, message, noise, strict=True)]
    return total, uniform, keys, inside


def decrypt(context, key, ciphertext):
    plain = seal_api.Plaintext()
    seal_api.Decryptor(context, seal_key(context, key)).decrypt(ciphertext, plain)
    return plain


def coefficients_of(slots):
    """The real polynomial whose values at zeta^(3^j), zeta = exp(i pi / N), are the slots (CKKS's embedding)."""
    exponents = np.array([pow(3, j, 2 * DEGREE) for j in range(DEGREE // 2)])
    values = np.zeros(DEGREE, np.complex128)  # at zeta^(2 i + 1)
    values[exponents // 2] = slots
    values[(2 * DEGREE - exponents) // 2] = np.conj(slots)
    turns = np.exp(-1j * np.pi * np.arange(DEGREE) / DEGREE)
    return (np.fft.fft(values) / DEGREE * turns).real


def test_seal_opens_and_decodes_a_sum_of_ours(context):
    total, uniform, keys, inside = seal_two(message_bits=17)
    plain = decrypt(context, keys, seal_ciphertext(context, total, uniform))
    slots = np.array(seal_api.CKKSEncoder(context).decode_complex(plain))
    assert np.rint(coefficients_of(slots) * DELTA).astype(np.int64).tolist() == inside


def test_seal_opens_a_sum_that_fills_the_modulus(context):
    total, uniform, keys, inside = seal_two(message_bits=79)
    plain = decrypt(context, keys, seal_ciphertext(context, total, uniform))
    residues = np.array([plain.data(i) for i in range(3 * DEGREE)], np.uint32).reshape(RING.shape)
    RING.from_ntt(residues)
    modulus = prod(RING.primes)
    assert [combine(column, RING.primes) for column in residues.T.tolist()] == [value % modulus for value in inside]
    ours = RING.product(uniform, RING.multiplier(keys))
    RING.add(ours, total)
    assert np.array_equal(ours, residues)


def test_another_key_opens_nothing(context):
    total, uniform, keys, inside = seal_two(message_bits=17)
    keys[0] += 1
    plain = decrypt(context, keys, seal_ciphertext(context, total, uniform))
    slots = np.array(seal_api.CKKSEncoder(context).decode_complex(plain))
    opened = coefficients_of(slots) * DELTA
    assert np.abs(opened - np.array(inside, float)).min() > 2.0**40


def test_a_key_that_seal_made_is_small_to_us(context):
    generator = seal_api.KeyGenerator(context)
    secret = generator.secret_key()
    data = secret.data()
    residues = np.array([data.data(i) for i in range(4 * DEGREE)], np.uint32).reshape(KEY_RING.shape)
    KEY_RING.from_ntt(residues)
    signed = (residues.astype(np.int64) + 1) % np.array(KEY_RING.primes)[:, None] - 1
    assert set(signed.ravel()) == {-1, 0, 1}
    assert (signed == signed[0]).all()
