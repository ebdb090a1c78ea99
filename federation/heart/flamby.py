"""What FLamby's differentially private runs on Fed-Heart-Disease spend, beside what they state.

Their model wrapper (flamby/strategies/utils.py) has Opacus calibrate the noise for `epochs=nrounds`: so many passes
over a hospital's loader. What runs is `num_updates` batches in each of the rounds. With their settings for this dataset
(batches of 4, 100 updates, and so 15 rounds) that is 1,500 steps at every hospital, where 15 passes are 750 at the
largest and 120 at the smallest.
"""

import math
from dataclasses import dataclass

from privacy.accounting import noise_multiplier_for, rdp_epsilon, rdp_vector, sampled_gaussian

BATCH, UPDATES, ROUNDS = 4, 100, 15
TRAINING = {"cleveland": 199, "hungarian": 172, "switzerland": 30, "va": 85}
NOMINAL = (1.0, 5.0)
DELTA = 1e-3


@dataclass(frozen=True)
class Spent:
    """One hospital: the steps that the noise was calibrated for, those that ran, and their epsilon (RDP)."""

    hospital: str
    nominal: float
    steps_planned: int
    steps_run: int
    epsilon: float


def spent(nominal: float, delta: float = DELTA) -> list[Spent]:
    """Every hospital's epsilon at a nominal one, Poisson sampling granted."""
    found = []
    for hospital, records in TRAINING.items():
        batches = math.ceil(records / BATCH)
        sigma = noise_multiplier_for(nominal, delta, 1 / batches, ROUNDS * batches)
        ran = sampled_gaussian(sigma, 1 / batches, ROUNDS * UPDATES)
        epsilon = rdp_epsilon(rdp_vector(ran), delta)
        found.append(Spent(hospital, nominal, ROUNDS * batches, ROUNDS * UPDATES, epsilon))
    return found
