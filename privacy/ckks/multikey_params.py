"""Parameters of the suite `ckks-multikey` (round-protocol.md, "Suite ckks-multikey").

A block is a polynomial of Z_Q[X]/(X^N + 1) whose coefficients each carry several grid values side by side, in fields
of f = b + ceil(log2 n) bits, scaled by Delta = 2^12 above the noise. Keys and noise have one width (ADR 4); how hard
the three sets are is in docs/explanation/parameters.md.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isqrt, prod

from privacy.ckks.ring_primes import PRIME_COUNTS, ntt_primes
from privacy.errors import ConfigError
from privacy.thresholds import MOST_PARTICIPANTS

SCALE_BITS = 12
SCALE = 1 << SCALE_BITS  # Delta: one grid step; the noise of 100 silos stays 32 sigma below half of it
VARIANCE = Fraction(81, 2)  # of each coefficient of keys and noise: sigma 6.364
SIGMAS = 16  # how far from 0 a sum of honest keys or noises may lie
LEAST_PARTICIPANTS = 3
GRID_BITS = range(8, 17)

DEGREES = {"small": 4096, "default": 8192, "large": 16384}  # N, by set
_DEFAULT_FROM, _LARGE_FROM = 200_000, 10_000_000  # values


@dataclass(frozen=True)
class MultikeyParams:
    """How grid values of `grid_bits` (b) sit in a coefficient, with room for the sum of `participants` (n) of them.

    `participants` is the most that the round can have; all silos of a round must use the same. Raises ConfigError on
    an unknown set, outside 3-100 participants, and outside 8-16 bits: so no field is wider than 23 bits, and the sum
    of any members' noise is below Delta / 2.
    """

    set_name: str
    participants: int
    grid_bits: int

    def __post_init__(self) -> None:
        """Raises ConfigError outside the bounds."""
        if self.set_name not in DEGREES:
            known = ", ".join(DEGREES)
            raise ConfigError("ckks-multikey", f"there is no parameter set {self.set_name!r}", f"Choose of: {known}.")
        if not LEAST_PARTICIPANTS <= self.participants <= MOST_PARTICIPANTS:
            raise ConfigError(
                "ckks-multikey",
                f"{self.participants} silos, and its fields and noise bounds are for 3 to {MOST_PARTICIPANTS}",
                f"List 3 to {MOST_PARTICIPANTS} silos in the job's roster.",
            )
        if self.grid_bits not in GRID_BITS:
            raise ConfigError("grid.bits", f"{self.grid_bits} is outside 8-16", "Choose 8 to 16 bits in the job file.")

    @classmethod
    def for_update(cls, values: int, participants: int, grid_bits: int) -> "MultikeyParams":
        """With the set for updates of that many values. Raises ConfigError as the class does."""
        return cls(cls.usual_set(values), participants, grid_bits)

    @staticmethod
    def usual_set(values: int) -> str:
        """The set with the fewest bytes for updates of that many values."""
        return "small" if values < _DEFAULT_FROM else "default" if values < _LARGE_FROM else "large"

    @property
    def degree(self) -> int:
        """N."""
        return DEGREES[self.set_name]

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The primes whose product is Q, the largest first."""
        return ntt_primes(self.degree, PRIME_COUNTS[self.degree])

    @property
    def field_bits(self) -> int:
        """f = b + ceil(log2 n): the sum of n grid values cannot carry into its neighbour."""
        return self.grid_bits + (self.participants - 1).bit_length()

    @cached_property
    def fields(self) -> int:
        """Fields in a coefficient, the most for which (2^(f fields) - 1) Delta + Delta <= Q.

        Fields put together are some m < 2^(f fields), and noise + Delta / 2 lies in [0, Delta): so what is opened,
        Delta m + noise + Delta / 2, lies in [0, Q) and is not reduced.
        """
        return ((prod(self.primes) >> SCALE_BITS).bit_length() - 1) // self.field_bits

    @property
    def values_per_block(self) -> int:
        """Grid values in a whole block."""
        return self.degree * self.fields

    def largest_sum(self, members: int) -> int:
        """The greatest value of one field in a sum of that many updates: members * (2^b - 1)."""
        return members * ((1 << self.grid_bits) - 1)

    @staticmethod
    def bound(members: int) -> int:
        """The greatest magnitude of a coefficient in the sum of that many keys, or noises: ceil(16 sigma sqrt(|U|)).

        A Gaussian exceeds it with a probability below 2^-183; what does is not the sum of honest ones.
        """
        return isqrt(SIGMAS**2 * VARIANCE.numerator * members // VARIANCE.denominator - 1) + 1
