"""The byte layout of SEAL 4.3 streams, as far as this suite writes or reads them. Pure; knows no key.

SEAL's parser is not meant for hostile bytes, so nothing a peer sent reaches it but seeds (64 bytes, any value right)
and residues that were checked to be below p: every other byte of a stream is written here. In the other direction a
silo takes residues and seed out of the streams its own SEAL wrote, checking every byte round them.

Object: header of 16 (magic A15E, 16, version 4.3, compression, 0, u64 total length), then the body. Seeded ciphertext:
parms id, NTT flag, polynomials (2), N, primes (1), scale, correction factor (1), array of N residues, generator
(type 1, BLAKE2xb; 64-byte seed). Secret key: parms id, N, scale 1.0, array. Array and generator have own headers.
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow

from privacy.ckks.params import BLOCK_BYTES, DEGREE, SCALE, SEED_BYTES
from privacy.errors import InternalError

HEADER_BYTES = 16
_COMPRESSION_NONE, _COMPRESSION_ZSTD = 0, 2
_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC, _MAJOR, _MINOR = 0xA15E, 4, 3
_BLAKE2XB = b"\x01"

ParmsId = Sequence[int]


def _header(body_bytes: int) -> bytes:
    return _HEADER.pack(_MAGIC, HEADER_BYTES, _MAJOR, _MINOR, _COMPRESSION_NONE, 0, HEADER_BYTES + body_bytes)


def _array_head() -> bytes:
    return _header(8 + BLOCK_BYTES) + struct.pack("<Q", DEGREE)


def _ciphertext_head(parms_id: ParmsId) -> bytes:
    """All that stands before the residues, without the outermost header."""
    return struct.pack("<4QBQQQdQ", *parms_id, 1, 2, DEGREE, 1, float(SCALE), 1) + _array_head()


_SEED_HEAD = _header(1 + SEED_BYTES) + _BLAKE2XB


def ciphertext_stream(parms_id: ParmsId, residues: bytes, seed: bytes) -> bytes:
    """A seeded ciphertext for SEAL to load. Raises InternalError unless both parts have their one right length."""
    if len(residues) != BLOCK_BYTES or len(seed) != SEED_BYTES:
        raise InternalError("SEAL stream", "residues or seed have a wrong length", "Report this.")
    body = _ciphertext_head(parms_id) + residues + _SEED_HEAD + seed
    return _header(len(body)) + body


def split_ciphertext(stream: bytes, parms_id: ParmsId) -> tuple[bytes, bytes]:
    """(residues, seed) of a seeded ciphertext that our own SEAL wrote, compressed by zstd or not.

    Raises InternalError if any byte round them differs from what `ciphertext_stream` writes: then this SEAL is not
    the one the layout was made for, and nothing may be sent.
    """
    head = _ciphertext_head(parms_id)
    body = _plain_body(stream, len(head) + BLOCK_BYTES + len(_SEED_HEAD) + SEED_BYTES)
    end = len(head) + BLOCK_BYTES
    if body[: len(head)] != head or body[end:-SEED_BYTES] != _SEED_HEAD:
        raise InternalError("SEAL stream", "is not the seeded ciphertext of SEAL 4.3", _INSTALL)
    return bytes(body[len(head) : end]), bytes(body[-SEED_BYTES:])


_INSTALL = "Install tenseal as constraints.txt pins it; nothing was sealed."


def _plain_body(stream: bytes, body_bytes: int) -> memoryview:
    """A stream's body. SEAL's Python binding always compresses what it saves, as ciphertext in vain."""
    if len(stream) < HEADER_BYTES:
        raise InternalError("SEAL stream", "is empty", _INSTALL)
    magic, size, major, minor, compression, zero, length = _HEADER.unpack_from(stream)
    known = (magic, size, major, minor, zero, length) == (_MAGIC, HEADER_BYTES, _MAJOR, _MINOR, 0, len(stream))
    if not known or compression not in (_COMPRESSION_NONE, _COMPRESSION_ZSTD):
        raise InternalError("SEAL stream", "has another header than SEAL 4.3 writes", _INSTALL)
    body = memoryview(stream)[HEADER_BYTES:]
    if compression == _COMPRESSION_ZSTD:
        try:
            body = memoryview(pyarrow.decompress(body, decompressed_size=body_bytes, codec="zstd")).cast("B")
        except (OSError, ValueError) as error:
            raise InternalError("SEAL stream", "does not decompress to its one right length", _INSTALL) from error
    if len(body) != body_bytes:
        raise InternalError("SEAL stream", f"holds {len(body)} bytes, expected {body_bytes}", _INSTALL)
    return body


def secret_key_stream(parms_id: ParmsId, residues: npt.NDArray[np.uint64]) -> bytes:
    """A secret key for SEAL to load, from its NTT residues, shape (4096,)."""
    head = struct.pack("<4QQd", *parms_id, DEGREE, 1.0) + _array_head()
    body = head + residues.astype("<u8").tobytes()
    return _header(len(body)) + body
