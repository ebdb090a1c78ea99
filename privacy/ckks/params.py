"""Parameters of the suite `ckks-group` (round-protocol.md, "Suite ckks-group").

One RLWE ring, Z_p[X]/(X^4096 + 1) with one 60-bit prime: far inside the HE Standard's limit of 109 bits for ternary
secrets at N = 4096 and 128-bit security. A block carries 8192 grid values: 2048 complex slots, two fields to each real
and to each imaginary part.
"""

from dataclasses import dataclass

from privacy.errors import ConfigError

DEGREE = 4096  # N
PRIME = 1_152_921_504_606_830_593  # SEAL's CoeffModulus.Create(4096, [60]); p = 1 mod 2N
SCALE = 1 << 16  # Delta: one grid step in a slot, so that noise of 32 silos stays 40 sigma below half a step
SLOTS = DEGREE // 2
COMPONENTS = DEGREE  # real and imaginary parts of the slots of one block
VALUES_PER_BLOCK = 2 * COMPONENTS
SEED_BYTES = 64  # SEAL's prng_seed_type; expands to the uniform half c1 of a ciphertext
RESIDUE_BYTES = 8
BLOCK_BYTES = DEGREE * RESIDUE_BYTES  # the other half, c0
MAX_TOTAL_WEIGHT = 32
GRID_BITS = range(8, 17)


@dataclass(frozen=True)
class GroupParams:
    """How grid values sit in a slot: `grid_bits` (b) each, with room for a sum of `total_weight` summands.

    `total_weight` is the most the round can sum: the number of its participants while weights are equal. All silos of
    a round must use the same. Raises ConfigError outside 8-16 bits and 1-32 summands, for which margins were measured.
    """

    grid_bits: int
    total_weight: int

    def __post_init__(self) -> None:
        """Raises ConfigError outside the bounds."""
        if self.grid_bits not in GRID_BITS:
            raise ConfigError("grid.bits", f"{self.grid_bits} is outside 8-16", "Choose 8 to 16 bits in the job file.")
        if not 1 <= self.total_weight <= MAX_TOTAL_WEIGHT:
            raise ConfigError(
                "ckks-group",
                f"{self.total_weight} silos, and its slots hold the sum of at most {MAX_TOTAL_WEIGHT}",
                f"List at most {MAX_TOTAL_WEIGHT} silos in the job's roster.",
            )

    @property
    def field_bits(self) -> int:
        """f = b + ceil(log2(total weight)): a field's sum cannot carry into its neighbour. At most 21."""
        return self.grid_bits + (self.total_weight - 1).bit_length()

    def largest_sum(self, members: int) -> int:
        """The greatest value of one field in a sum of that many updates: members * (2^b - 1)."""
        return members * ((1 << self.grid_bits) - 1)
