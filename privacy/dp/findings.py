"""What a self-test measured, and how it fails."""

from dataclasses import dataclass

from privacy.dp.allowlist import NEAREST
from privacy.errors import Refused


@dataclass(frozen=True)
class Finding:
    """One comparison: the relative deviation that was measured, and the bound it stayed under."""

    check: str
    measured: float
    bound: float


def within(check: str, deviation: float, bound: float, what: str, why: str) -> Finding:
    """The finding of a deviation within its bound. Raises Refused on a larger one, and on NaN."""
    if not deviation <= bound:
        raise failed(what, f"{why} ({check}: off by {deviation:.2g}, allowed {bound:.2g})")
    return Finding(check, float(f"{deviation:.2e}"), bound)


def failed(what: str, why: str) -> Refused:
    """The refusal of a model, or of the engine itself."""
    return Refused(f"DP preflight: {what}", why, f"No budget was spent. {NEAREST}.")
