"""What a silo sends in a rehearsal: pseudo-random values that anybody can compute again, to check a mean by."""

import numpy as np
import numpy.typing as npt

from privacy.canonical import digest

REHEARSAL_LABEL = "cloister/v1/rehearsal"


def rehearsal_vector(
    silo: str, plan_digest: bytes, round_number: int, values: int, update_range: float
) -> npt.NDArray[np.float32]:
    """`values` float32 figures, uniform in [-update_range, update_range), the same on every machine.

    Philox keyed by a digest of silo, plan and round. It protects nothing: a rehearsal touches no data.
    """
    seed = digest(REHEARSAL_LABEL, silo.encode(), plan_digest, round_number.to_bytes(8, "big"))
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "big")))
    vector = generator.random(values, dtype=np.float32)
    vector *= np.float32(2.0)
    vector -= np.float32(1.0)
    vector *= np.float32(update_range)
    return vector
