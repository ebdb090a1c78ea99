"""The Gaussian mechanism's noise: from a CSPRNG, counted where it is added."""

import os

import numpy as np
import torch

from privacy.dp.randomness import os_seeded
from privacy.errors import InternalError

DRAWS = 4  # summed and halved, the sum of four unit normals is a unit normal again


class GaussianNoise:
    """Adds N(0, std^2) to tensors and counts how often it did: the count is what the accountant charges.

    Each value is half the sum of four float64 normals, so that no single float64 pattern betrays what it was added to
    (Holohan and Braghin, arXiv 2107.10138). `bits` is for tests; left out, the source keys its own ChaCha20 from the
    operating system. A forked copy of the process refuses to draw: two processes would add the same noise.
    """

    def __init__(self, bits: np.random.Generator | None = None) -> None:
        self._bits = os_seeded() if bits is None else bits
        self._process = os.getpid()
        self._additions = 0

    @property
    def additions(self) -> int:
        """How many times noise was added."""
        return self._additions

    def add_(self, tensor: torch.Tensor, std: float) -> None:
        """Add independent N(0, std^2) to every element of `tensor`, in place.

        `tensor` must be float64, so that the sum is rounded only after the noise is in it. Raises InternalError on
        another type, on a `std` that is not positive and finite, and after a fork.
        """
        if tensor.dtype != torch.float64:
            raise InternalError("noise", f"asked to cover {tensor.dtype}, not float64", "Report this.")
        if not 0 < std < float("inf"):
            raise InternalError("noise", f"standard deviation {std} is not positive and finite", "Report this.")
        if os.getpid() != self._process:
            raise InternalError("noise", "the process was forked and would repeat its parent's noise", "Report this.")
        draws = np.zeros(tuple(tensor.shape))
        for _ in range(DRAWS):
            draws += self._bits.standard_normal(draws.shape)
        tensor.add_(torch.from_numpy(draws * (std / 2)).to(tensor.device))
        self._additions += 1
