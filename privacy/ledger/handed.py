"""A cosignature that is carried by hand, by an auditor who has no connection to the federation; what they have seen."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from privacy.document import Document
from privacy.fields import Hex32, Strict, Text


class HandedCosignature(Document):
    """A witness' signature line for the checkpoint of a log that has so many entries, and its identity certificate."""

    what: ClassVar[str] = "cosignature"
    next_step: ClassVar[str] = "Ask the auditor for it again, or name another file."
    most_bytes: ClassVar[int] = 16 * 1024

    type: Literal["cloister/v1/cosignature"] = "cloister/v1/cosignature"
    log: Text
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    line: Text
    certificate: Annotated[str, Field(max_length=8192)]


class SeenState(Strict):
    """The largest state of one log that somebody has verified."""

    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    root: Hex32


class SeenLogs(Document):
    """What an auditor has seen, by log; kept between visits, it shows a log that was cut back or rewritten since."""

    what: ClassVar[str] = "what was seen before"
    next_step: ClassVar[str] = "Name the file that `cloister ledger cosign --seen` wrote."
    most_bytes: ClassVar[int] = 1 << 20

    type: Literal["cloister/v1/seen"] = "cloister/v1/seen"
    logs: dict[Text, SeenState] = Field(default_factory=dict)
