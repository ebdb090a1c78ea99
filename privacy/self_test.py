"""The report of a job's self-test, kept and exported: what was measured on made-up examples, and within which bound.

Written by privacy.dp.preflight; here for who reads it without torch.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from privacy.document import Document
from privacy.fields import Strict, Text

_ROUNDED = 0.005  # `measured` has three digits


class Measured(Strict):
    """One comparison: the relative deviation that was measured, and the bound it had to stay under."""

    check: Text
    measured: Annotated[float, Field(ge=0)]
    bound: Annotated[float, Field(ge=0)]


class Parameter(Strict):
    """A trained tensor, and what kind it is."""

    name: Text
    kind: Text


class SelfTestReport(Document):
    """What `cloister silo preflight` shows, and whose SHA-256 the ledger has."""

    what: ClassVar[str] = "self-test report"
    next_step: ClassVar[str] = "Ask the institution for the report of this self-test."

    clipping: Literal["hooks", "ghost"]
    parameters: Annotated[tuple[Parameter, ...], Field(strict=False)]
    values: Annotated[int, Field(ge=1)]
    findings: Annotated[tuple[Measured, ...], Field(strict=False, min_length=1)]

    @property
    def passed(self) -> bool:
        """Whether every deviation stayed within its bound, as far as three digits say."""
        return all(finding.measured <= finding.bound * (1 + _ROUNDED) for finding in self.findings)

    @property
    def checks(self) -> tuple[str, ...]:
        """What was compared, in its order."""
        return tuple(finding.check for finding in self.findings)
