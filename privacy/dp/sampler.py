"""Who takes part in a step: Poisson sampling of units of privacy, and of one record within a unit.

The amplification that the accountant claims holds for exactly this sampler: every unit joins every step with
probability q, independently of all else (Abadi et al., arXiv 1607.00133, section 3.1; Mironov et al., 1908.10530).
Shuffled or fixed-size batches would under-state epsilon (2403.17673). q is the plan's public figure; nothing here is
derived from the number of records.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from privacy.dp.randomness import os_seeded
from privacy.errors import ConfigError, InternalError

Indices = npt.NDArray[np.int64]


class PoissonSampler:
    """Draws the units of one step from `units` of them, each with probability `sampling_rate`, independently.

    `bits` is for tests; left out, the sampler keys its own ChaCha20 from the operating system.
    Raises ConfigError without a unit, InternalError on a rate outside (0, 1].
    """

    def __init__(self, units: int, sampling_rate: float, bits: np.random.Generator | None = None) -> None:
        if units < 1:
            raise ConfigError("dataset", "it has no unit of privacy to sample", "Register records before training.")
        if not 0 < sampling_rate <= 1:
            raise InternalError("Poisson sampler", f"sampling rate {sampling_rate} is outside (0, 1]", "Report this.")
        self._units = units
        self._rate = sampling_rate
        self._bits = os_seeded() if bits is None else bits

    def draw(self) -> Indices:
        """The units of the next step, sorted, each at most once. May be empty: such a step is noise only."""
        return np.flatnonzero(self._bits.random(self._units) < self._rate).astype(np.int64)


class OneRecordPerUnit:
    """The patient level: a unit is a patient; a drawn patient contributes one of their records, chosen uniformly.

    `records_of_unit[u]` holds the record numbers of unit u. Since a step sees at most one record of a patient, adding
    or removing a patient with all their records changes the clipped sum by at most the clip.
    Raises ConfigError when a unit has no record.
    """

    def __init__(self, records_of_unit: Sequence[npt.ArrayLike], bits: np.random.Generator | None = None) -> None:
        self._records = [np.asarray(records, dtype=np.int64) for records in records_of_unit]
        if any(len(records) == 0 for records in self._records):
            raise ConfigError("dataset", "a unit of privacy has no record", "Group only patients that have records.")
        self._bits = os_seeded() if bits is None else bits

    @property
    def units(self) -> int:
        """How many units of privacy there are."""
        return len(self._records)

    def pick(self, units: Indices) -> Indices:
        """One record number for each of the given units, in their order; fresh choices at every call."""
        chosen = (self._records[unit] for unit in units)
        return np.array([records[self._bits.integers(len(records))] for records in chosen], dtype=np.int64)
