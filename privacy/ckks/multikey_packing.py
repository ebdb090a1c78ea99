"""Residues of 31 bits, side by side, and back: the loops of `multikey_layout.py`."""

import numpy as np
import numpy.typing as npt

from privacy.ckks.compiled import kernel
from privacy.ckks.multikey_layout import GROUP, GROUP_WORDS

Words = npt.NDArray[np.uint32]


@kernel
def pack(rows: Words, width: int, words: Words) -> None:
    """The first `width` residues of each row, 31 bits each."""
    for r in range(rows.shape[0]):
        for group in range(width // GROUP):
            residues = rows[r, group * GROUP : (group + 1) * GROUP]
            start = (r * (width // GROUP) + group) * GROUP_WORDS
            for i in range(GROUP_WORDS):
                words[start + i] = (residues[i] >> np.uint32(i)) | (residues[i + 1] << np.uint32(GROUP_WORDS - i))


@kernel
def unpack(words: Words, width: int, rows: Words) -> None:
    """The inverse of `pack`, into the first `width` residues of each row."""
    mask = np.uint32((1 << 31) - 1)
    for r in range(rows.shape[0]):
        for group in range(width // GROUP):
            residues = rows[r, group * GROUP : (group + 1) * GROUP]
            start = (r * (width // GROUP) + group) * GROUP_WORDS
            residues[0] = words[start] & mask
            for i in range(1, GROUP_WORDS):
                low, high = words[start + i - 1] >> np.uint32(GROUP - i), words[start + i] << np.uint32(i)
                residues[i] = (low | high) & mask
            residues[GROUP_WORDS] = words[start + GROUP_WORDS - 1] >> np.uint32(1)
