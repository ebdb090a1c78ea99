"""The suite `ckks-group`: seal an update and open a sum under the cohort's one key, with SEAL through TenSEAL.

The only module that imports tenseal, and one the aggregator cannot import. Every silo of the cohort holds the key, so
a server that colludes with one silo opens every update (tests/attacks/test_group_server_plus_one_silo.py): this suite
keeps updates from the aggregator, not from the cohort.

Source: round-protocol.md, "Suite ckks-group". SEAL's own generator makes secrets, seeds and noise; no seed is ever
given to it, since SEAL's seed fixes the noise too.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal_api

from privacy.canonical import digest
from privacy.ckks.layout import Layout, check_chunk, check_seeds
from privacy.ckks.packing import pack, unpack
from privacy.ckks.params import BLOCK_BYTES, DEGREE, PRIME, SCALE, SEED_BYTES, VALUES_PER_BLOCK, GroupParams
from privacy.ckks.sealstream import ciphertext_stream, secret_key_stream, split_ciphertext
from privacy.ckks.ternary import SECRET_BYTES, check_secret, residues_to_secret, secret_to_residues
from privacy.errors import InternalError, ProtocolError, VerificationError

KEY_LABEL = "cloister/v1/ckks-group/key"
KEY_BYTES = SECRET_BYTES
_STREAM_LIMIT = 2 * BLOCK_BYTES
_ZERO_RESIDUES = bytes(BLOCK_BYTES)
_NEXT = "The round must not be applied; compare the commit with the other silos."


@cache
def _context() -> Any:  # noqa: ANN401 - tenseal has no types
    """SEAL's context for the suite's parameters at its 128-bit security check. Raises InternalError if they differ."""
    parameters = seal_api.EncryptionParameters(seal_api.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(seal_api.CoeffModulus.Create(DEGREE, [PRIME.bit_length()]))
    context = seal_api.SEALContext(parameters, False, seal_api.SEC_LEVEL_TYPE.TC128)
    primes = [int(prime.value()) for prime in parameters.coeff_modulus()]
    if not context.parameters_set() or primes != [PRIME]:
        raise InternalError("SEAL", "does not give the suite's parameters", "Install tenseal as constraints.txt pins.")
    return context


class _MemoryFile:
    """A file without a name and outside any disk: SEAL's Python binding saves to and loads from paths only."""

    def __enter__(self) -> "_MemoryFile":
        self._descriptor = os.memfd_create("cloister-seal", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._descriptor}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self) -> bytes:
        """All of it; a stream longer than any of ours comes back cut and is refused by its reader."""
        return os.pread(self._descriptor, _STREAM_LIMIT, 0)

    def write(self, data: bytes) -> None:
        """Replace the content."""
        os.ftruncate(self._descriptor, len(data))
        if os.pwrite(self._descriptor, data, 0) != len(data):
            raise InternalError("memory file", "took only part of a SEAL stream", "Free memory and start again.")


@dataclass(frozen=True, eq=False)
class GroupKey:
    """The cohort's secret key for one job: a ternary secret, 1,024 bytes. It opens every update of the job.

    Python cannot erase it from memory; drop it and erase the vault's copy when the job ends.
    """

    _secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "GroupKey":
        """A fresh key from SEAL's key generator."""
        generator = seal_api.KeyGenerator(_context())
        secret = generator.secret_key()  # named: the binding's data() points into it and does not keep it alive
        residues = secret.data()
        return cls(residues_to_secret(np.array([residues.data(i) for i in range(DEGREE)], np.uint64)))

    @classmethod
    def from_bytes(cls, data: bytes) -> "GroupKey":
        """Read what `to_bytes` wrote. Raises ProtocolError unless it is exactly one encoded ternary secret."""
        check_secret(data)
        return cls(bytes(data))

    def to_bytes(self) -> bytes:
        """1,024 bytes, for HPKE mail and the vault only."""
        return self._secret

    def commitment(self, binding: bytes) -> bytes:
        """32 bytes that let silos compare keys in public: H(label, binding, key); `binding` is the roll's digest.

        Hides the key, which has 4096 log2(3) bits of entropy.
        """
        return digest(KEY_LABEL, binding, self._secret)

    @cached_property
    def loaded(self) -> Any:  # noqa: ANN401 - tenseal has no types
        """The key as SEAL's object."""
        context, loaded = _context(), seal_api.SecretKey()
        with _MemoryFile() as memory:
            memory.write(secret_key_stream(context.first_parms_id(), secret_to_residues(self._secret)))
            loaded.load(context, memory.path)
        return loaded


class SealedBlock(NamedTuple):
    """One sealed block: 32,768 bytes of residues (c0) and the 64-byte seed of c1. Both may be public."""

    residues: bytes
    seed: bytes


def seal(key: GroupKey, params: GroupParams, blocks: Iterable[npt.NDArray[np.uint16]]) -> Iterator[SealedBlock]:
    """Encrypt grid blocks (8192 values each, the last may be shorter) one by one, in order.

    Encrypting one update twice gives two ciphertexts of it: store what this yields, and resend the stored bytes.
    Raises InternalError on a block that is short but not the last, or does not fit the plan's bits.
    """
    context = _context()
    encryptor = seal_api.Encryptor(context, key.loaded)
    encoder, plain = seal_api.CKKSEncoder(context), seal_api.Plaintext()
    parms_id, ended = context.first_parms_id(), False
    with _MemoryFile() as memory:
        for grid in blocks:
            if ended:
                raise InternalError("grid block", "follows one that was not full", "Report this; nothing is sent.")
            ended = len(grid) < VALUES_PER_BLOCK
            encoder.encode(pack(grid, params), float(SCALE), plain)
            encryptor.encrypt_symmetric(plain).save(memory.path)
            yield SealedBlock(*split_ciphertext(memory.read(), parms_id))


def open_sum(
    key: GroupKey, params: GroupParams, layout: Layout, chunks: Iterable[bytes], seeds: Sequence[bytes]
) -> Iterator[npt.NDArray[np.uint32]]:
    """The exact sums of the members' grid values, block by block in order (8192 values, the last block the rest).

    `chunks` are the sum's residue chunks in order, `seeds` each member's seeds, both already compared with the signed
    headers. Raises at once: ProtocolError on seeds of a wrong length, VerificationError on no or too many members and
    on a seed that occurs twice (an update, or a part of one, counted twice). Raises while it is iterated:
    ProtocolError on chunks that are missing, surplus, or wrong (`check_chunk`); VerificationError on a sum that does
    not open to integers in range. Use nothing of it unless the iteration ended.

    What it does not find: a sum to which the aggregator added an encoding of its own (the fingerprint step is for
    that).
    """
    for part in seeds:
        check_seeds(part, layout)
    if not 1 <= len(seeds) <= params.total_weight:
        why = f"is of {len(seeds)} updates, the round allows 1 to {params.total_weight}"
        raise VerificationError("sum", why, _NEXT)
    every = np.frombuffer(b"".join(seeds), f"V{SEED_BYTES}")
    if len(np.unique(every)) != len(every):
        raise VerificationError("sum", "counts one sealed block twice: a seed occurs twice", _NEXT)
    return _open_blocks(key, params, layout, chunks, seeds)


def _sum_blocks(layout: Layout, chunks: Iterable[bytes]) -> Iterator[bytes]:
    count = 0
    for index, chunk in enumerate(chunks):
        check_chunk(chunk, index, layout)
        count += 1
        for start in range(0, len(chunk), BLOCK_BYTES):
            yield chunk[start : start + BLOCK_BYTES]
    if count != layout.chunks:
        raise ProtocolError("sum", f"has {count} chunks, expected {layout.chunks}", "Fetch the sum again.")


def _open_blocks(
    key: GroupKey, params: GroupParams, layout: Layout, chunks: Iterable[bytes], seeds: Sequence[bytes]
) -> Iterator[npt.NDArray[np.uint32]]:
    opener = _Opener(key)
    for block, residues in enumerate(_sum_blocks(layout, chunks)):
        part = slice(block * SEED_BYTES, (block + 1) * SEED_BYTES)
        slots = opener.decode(residues, [member[part] for member in seeds])
        sums = unpack(slots, params, len(seeds))
        used = min(VALUES_PER_BLOCK, layout.values - block * VALUES_PER_BLOCK)
        if sums[used:].any():
            raise VerificationError("opened sum", "holds something after its last value", _NEXT)
        yield sums[:used]


class _Opener:
    """SEAL's decryptor under one key. Its decodes are as secret as the key and go nowhere but into `unpack`."""

    def __init__(self, key: GroupKey) -> None:
        self._context = _context()
        self._parms_id = self._context.first_parms_id()
        self._decryptor = seal_api.Decryptor(self._context, key.loaded)
        self._encoder = seal_api.CKKSEncoder(self._context)
        self._evaluator = seal_api.Evaluator(self._context)

    def decode(self, residues: bytes, seeds: Sequence[bytes]) -> npt.NDArray[np.complex128]:
        """The noisy slots of c0 + s * (the sum of what the seeds expand to)."""
        total, summand, plain = seal_api.Ciphertext(), seal_api.Ciphertext(), seal_api.Plaintext()
        with _MemoryFile() as memory:
            memory.write(ciphertext_stream(self._parms_id, residues, seeds[0]))
            total.load(self._context, memory.path)
            for seed in seeds[1:]:
                memory.write(ciphertext_stream(self._parms_id, _ZERO_RESIDUES, seed))
                summand.load(self._context, memory.path)
                self._evaluator.add_inplace(total, summand)
        self._decryptor.decrypt(total, plain)
        return np.array(self._encoder.decode_complex(plain), np.complex128)
