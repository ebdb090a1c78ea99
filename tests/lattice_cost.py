"""What the best known lattice attacks on the parameter sets of `ckks-multikey` cost, by the published formulas.

`python -m tests.lattice_cost` prints the table of docs/explanation/parameters.md. This is our own program and not the
lattice-estimator; tests/unit/test_lattice_cost.py compares it with figures the lattice-estimator's manual prints.

Everything is a base-2 logarithm. Sources: delta of BKZ, Chen's thesis (2013); geometric series assumption, Schnorr
(STACS 2003); uSVP condition, Alkim, Ducas, Poeppelmann, Schwabe (USENIX 2016), scaled for small secrets after Bai and
Galbraith (ACISP 2014); BDD by one larger sieve, Liu and Nguyen (CT-RSA 2013); dual hybrid with FFT, MATZOV (2022).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil, e, exp, floor, inf, lgamma, log, log2, pi, sqrt, tanh

from privacy.ckks.multikey_params import DEGREES, VARIANCE
from privacy.ckks.ring_primes import PRIME_COUNTS, WORD_BITS

PROGRESSIVE = 5.46  # a BKZ or sieve that works its way up, over its last step (Kyber, round 3, section 5.2)


@dataclass(frozen=True)
class Lwe:
    """n, log2 q, standard deviations of secret and error, and how many samples there are."""

    n: int
    log2_q: float
    secret: float
    error: float
    samples: float = inf

    @property
    def scale(self):
        """What the secret is multiplied with so that it is as wide as the error."""
        return max(self.error / self.secret, 1)


def add(*logs):
    top = max(logs)
    return top + log2(sum(2 ** (x - top) for x in logs))


@cache
def delta(beta):
    """Of the root Hermite factor that BKZ with block size beta reaches."""
    return log2(beta / (2 * pi * e) * (pi * beta) ** (1 / beta)) / (2 * (beta - 1))


def repeats(wanted, had):
    """How often to do what yields 2^had vectors to have 2^wanted."""
    return 0 if wanted <= had else log2(ceil(2 ** (wanted - had))) if wanted < had + 50 else wanted - had


@dataclass(frozen=True)
class CoreSvp:
    """One call of a sieve and nothing else: a lower bound (USENIX 2016)."""

    slope: float

    def bkz(self, beta, d):
        return self.slope * beta

    def vectors(self, beta, d, count):
        """Many short vectors: each sieve leaves 2^(0.2075 beta)."""
        return self.bkz(beta, d) + repeats(count, 0.2075 * beta)


@dataclass(frozen=True)
class Tours(CoreSvp):
    """2^16.4 instructions a step of the sieve, eight tours of d calls: the Homomorphic Encryption Standard's."""

    def bkz(self, beta, d):
        return self.slope * beta + 16.4 + (log2(8 * d) if beta < d else 0)


@dataclass(frozen=True)
class Gates:
    """Gates of progressive BKZ with "dimensions for free": Albrecht et al. (Asiacrypt 2020) as corrected by MATZOV."""

    slope: float
    offset: float

    def sieve(self, beta):
        return log2(PROGRESSIVE) + self.slope * beta + self.offset

    @staticmethod
    def free(beta):
        """Ducas (Eurocrypt 2018)."""
        return max(beta * log(4 / 3) / log(beta / (2 * pi * e)), 0)

    def bkz(self, beta, d):
        return log2(PROGRESSIVE * max(d - beta, 1)) + self.sieve(beta - self.free(beta))

    def vectors(self, beta, d, count):
        """A last sieve, as costly as the reduction, leaves the vectors (Guo and Johansson, Asiacrypt 2021)."""
        last = min(d, floor(beta - floor(self.free(beta)) + log2((d - beta) * PROGRESSIVE) / self.slope))
        return repeats(count, 0.2075 * last) + add(self.bkz(beta, d), self.sieve(last))


# Slopes and offsets of the gate counts: the fits of the lattice-estimator's cost model MATZOV, "classical" and "dw".
MODELS = {
    "MATZOV, classical gates": Gates(0.29613500308205365, 20.387885985467914),
    "MATZOV, quantum depth x width": Gates(0.2663676536352464, 25.299541499216627),
    "BDGL16, classical": Tours(0.292),
    "LaaMosPol14, quantum": Tours(0.265),
    "core-SVP, classical": CoreSvp(0.292),
    "core-SVP, quantum": CoreSvp(0.265),
}


def first(low, high, holds):
    """The least integer from low to high for which a monotone condition holds; `high` if it never does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def best_dimension(lwe, beta):
    """The dimension in which the target is easiest to find: -delta d + volume / d is largest."""
    lost = (lwe.n + 1) * lwe.log2_q - lwe.n * log2(lwe.scale) - log2(lwe.error)
    return min(ceil(sqrt(lost / delta(beta))), lwe.samples + lwe.n)


def usvp(lwe, model):
    """(cost, beta, d): the least block size that finds the short vector of Kannan's embedding, and its least d."""

    def finds(beta, d):
        volume = log2(lwe.error) + lwe.n * log2(lwe.scale) + lwe.log2_q * (d - lwe.n - 1)
        return log2(lwe.error * sqrt(beta)) <= delta(beta) * (2 * beta - d - 1) + volume / d

    beta = first(50, 4 * lwe.n, lambda beta: finds(beta, best_dimension(lwe, beta)))
    d = first(lwe.n, best_dimension(lwe, beta), lambda d: finds(beta, d))
    return model.bkz(beta, d), beta, d


def bdd(lwe, model):
    """(cost, beta, eta, d): reduction with block size beta, then one sieve in dimension eta + 1."""

    def attack(beta, d):
        volume = (d - lwe.n) * lwe.log2_q + lwe.n * log2(lwe.scale)

        def shortest(i):
            """Whether the projection orthogonal to i vectors makes the target shorter than the Gaussian heuristic."""
            m = d - i + 1
            ball = (m / 2 * log(pi) - lgamma(m / 2 + 1)) / log(2)
            projected = m / d * volume - volume / d - i * (d - i) * delta(beta) + log2(lwe.error)
            return (projected - ball) / m < log2(lwe.error * sqrt(m))

        sieve = d - first(0, d - 1, shortest) + 2
        cost = add(model.bkz(beta, d), model.bkz(sieve, sieve)) if sieve - 1 <= d else inf
        return cost, beta, sieve - 1, d

    most = usvp(lwe, model)[1]
    best = min(attack(beta, best_dimension(lwe, beta)) for beta in range(int(0.8 * most), most + 2))
    return min(attack(best[1], d) for d in range(max(lwe.n, int(0.9 * best[3])), best[3] + 1))


def dual_hybrid(lwe, model):
    """(cost, beta, p, guessed, transformed): MATZOV's theorem 7.6, n samples in the lattice, 1/2 of false positives.

    Its independence assumption fails for some parameters (Ducas and Pulles, Crypto 2023), so the attack may cost more.
    """
    entropy = (0.5 + log(sqrt(2 * pi) * lwe.secret) - log(tanh(pi**2 * lwe.secret**2))) / log(2)
    alpha = (pi * lwe.secret) ** 2
    guesses = log2(2 / sqrt(e)) + 8 * alpha * exp(-2 * alpha) * tanh(alpha) / log(2) + entropy  # a coordinate
    start = -log2(1 - exp(-0.5 / lwe.secret**2))

    def attack(beta, p, guessed, transformed):
        left = lwe.n - guessed - transformed
        d = lwe.n + left
        length = (lwe.n * log2(lwe.error) + left * (log2(lwe.secret) + lwe.log2_q)) / d
        length += log2(4 / 3 * beta / (2 * pi * e)) / 2 + delta(beta) * (d - beta) - lwe.log2_q
        exponent = 4 * pi**2 * 2 ** (2 * min(length, 20)) + transformed / 3 * (pi * lwe.secret / p) ** 2
        count = exponent / log(2) + log2(guessed * entropy + transformed * log(p) + log(2))
        transform = [log2(32**2 * transformed) + (transformed + 1) * log2(p)] if transformed else []
        table = log2(4 * 5 * 32) + count
        cost = add(model.vectors(beta, d, count), start + guessed * guesses + add(table, *transform))
        return cost, beta, p, guessed, transformed

    around = usvp(lwe, model)[1]
    choices = product(range(around - 24, around + 12), range(2, 14), range(0, 30, 5), range(0, 65, 5))
    return min(attack(*choice) for choice in choices)


# hint-RLWE: one opened sum with two honest silos in it leaves keys and noise half as wide as they are (ADR 4).
WIDTH = sqrt(VARIANCE) / 2
SETS = {name: Lwe(degree, WORD_BITS * PRIME_COUNTS[degree], WIDTH, WIDTH) for name, degree in DEGREES.items()}


def rows() -> Iterator[str]:
    """The lines of the table."""
    yield "| cost model | set | uSVP | BDD | dual hybrid | block size |"
    yield "|---|---|---|---|---|---|"
    for model_name, model in MODELS.items():
        for name, lwe in SETS.items():
            (primal, beta, _), (bounded, *_), (dual, *_) = usvp(lwe, model), bdd(lwe, model), dual_hybrid(lwe, model)
            yield f"| {model_name} | {name} | {primal:.1f} | {bounded:.1f} | {dual:.1f} | {beta} |"


if __name__ == "__main__":
    print(*rows(), sep="\n")
