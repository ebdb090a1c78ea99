"""Grid values <-> the slots of a CKKS plaintext, and the exact opening (round-protocol.md, "Exact opening").

Block of 8192 grid values g, b bits each, fields of f bits: component k holds g[k] + 2^f g[4096 + k], less the centre
(1 + 2^f) 2^(b-1); slot j is component 2j plus i times component 2j + 1. A sum of ciphertexts decodes to the sum of
components up to noise; rounding it gives back the integers and forgets the noise.

What `unpack` is given is as secret as the key: a float decode of one ciphertext gives the key away (Li and Micciancio,
Eurocrypt 2021; tests/attacks/test_float_decode_key_recovery.py). It must not be stored, logged or returned.
"""

import numpy as np
import numpy.typing as npt

from privacy.ckks.params import COMPONENTS, VALUES_PER_BLOCK, GroupParams
from privacy.errors import InternalError, VerificationError

# With 32 silos the decode's error has a standard deviation of 0.0125; a wrong key makes it uniform on [-0.5, 0.5].
MAX_ROUNDING_ERROR = 0.25

_NEXT = "The round must not be applied; compare the sum's root and the key's commitment with the other silos."


def _centre(params: GroupParams) -> int:
    """Of one component of one update: halves the worst coefficient, against wrapping round p."""
    return (1 + (1 << params.field_bits)) << (params.grid_bits - 1)


def pack(grid: npt.NDArray[np.uint16], params: GroupParams) -> list[complex]:
    """The 2048 slots of one block; a shorter (last) block is filled up with grid value 0.

    Raises InternalError on an empty or too long block, and on values of more than `grid_bits` bits.
    """
    if grid.ndim != 1 or not 1 <= len(grid) <= VALUES_PER_BLOCK or grid.max() > params.largest_sum(1):
        raise InternalError("grid block", "is not up to 8192 values of the plan's bits", "Report this.")
    components = np.full(COMPONENTS, -float(_centre(params)))
    low, high = grid[:COMPONENTS], grid[COMPONENTS:]
    components[: len(low)] += low
    components[: len(high)] += high * float(1 << params.field_bits)
    return components.view(np.complex128).tolist()


def unpack(slots: npt.NDArray[np.complex128], params: GroupParams, members: int) -> npt.NDArray[np.uint32]:
    """The 8192 integer sums of one block of `members` updates: exact, or VerificationError.

    Raises VerificationError if a component lies further than 0.25 from an integer (another key, or residues and seeds
    that do not belong together), or a field is not a sum of that many grid values.
    """
    parts = np.ascontiguousarray(slots, np.complex128).view(np.float64)
    if not np.abs(parts).max() < 2.0**50:  # NaN fails too; from here on fractions have three bits or more
        raise VerificationError("opened sum", "is out of range: wrong key, or an altered sum", _NEXT)
    rounded = np.rint(parts)
    if np.abs(parts - rounded).max() > MAX_ROUNDING_ERROR:
        raise VerificationError("opened sum", "does not decrypt to integers: wrong key, or an altered sum", _NEXT)
    sums = rounded.astype(np.int64) + members * _centre(params)
    low = sums & ((1 << params.field_bits) - 1)
    high = sums >> params.field_bits
    fields = np.concatenate((low, high))
    if fields.min() < 0 or fields.max() > params.largest_sum(members):
        raise VerificationError("opened sum", f"holds values no {members} updates add up to", _NEXT)
    return fields.astype(np.uint32)
