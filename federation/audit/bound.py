"""A lower bound on epsilon from an attack's scores, with confidence.

Whoever must tell a dataset with a record from one without it errs: under (epsilon, delta)-DP the rate of false alarms
a and of misses b satisfy 1 - b <= e^epsilon a + delta and 1 - a <= e^epsilon b + delta (Kairouz, Oh, Viswanath, ICML
2015, theorem 2.1). So upper bounds on both rates (Clopper and Pearson, Biometrika 1934) are a lower bound on epsilon
(Jagielski, Ullman, Oprea, NeurIPS 2020). It is about the attack: a better one may find more.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.errors import InternalError

Scores = npt.NDArray[np.float64]  # [runs, statistics]


@dataclass(frozen=True)
class Rule:
    """Say `present` where this statistic is at least the threshold."""

    statistic: int
    threshold: float

    def says_present(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """For each run."""
        return scores[:, self.statistic] >= self.threshold


def lower_bound(absent: Scores, present: Scores, delta: float, confidence: float) -> float:
    """With at least this confidence, epsilon at delta is no less.

    The rule is chosen on the first half of the runs and judged on the second, so that choosing costs no confidence.
    """
    if len(absent) != len(present) or len(absent) < 4:
        raise InternalError("audit", f"{len(absent)} runs without and {len(present)} with the canary", "Report this.")
    half = len(absent) // 2
    rule = max(
        _rules(absent[:half], present[:half]), key=lambda r: judged(r, absent[:half], present[:half], delta, 0.5)
    )
    return judged(rule, absent[half:], present[half:], delta, confidence)


def judged(rule: Rule, absent: Scores, present: Scores, delta: float, confidence: float) -> float:
    """What one fixed rule shows. Each rate's bound holds with probability 1 - (1 - confidence) / 2."""
    error = (1 - confidence) / 2
    alarms = _at_most(int(rule.says_present(absent).sum()), len(absent), error)
    misses = _at_most(int((~rule.says_present(present)).sum()), len(present), error)
    return max(0.0, _log_ratio(1 - misses - delta, alarms), _log_ratio(1 - alarms - delta, misses))


def _rules(absent: Scores, present: Scores) -> list[Rule]:
    """Every threshold of every statistic that tells some of the runs apart."""
    seen = np.concatenate([absent, present])
    return [Rule(i, float(t)) for i in range(seen.shape[1]) for t in np.unique(seen[:, i])]


def _at_most(events: int, runs: int, error: float) -> float:
    """Clopper and Pearson's upper bound on a rate."""
    from scipy.stats import beta

    return 1.0 if events == runs else float(beta.ppf(1 - error, events + 1, runs - events))


def _log_ratio(part: float, whole: float) -> float:
    return math.log(part / whole) if part > 0 else -math.inf
