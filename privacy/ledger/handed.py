"""A cosignature that is carried by hand, by an auditor who has no connection to the federation; what they have seen."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import Hex32, Strict, Text, first_complaint

MAX_BYTES = 1 << 20


class _File(Strict):
    """A file in canonical JSON."""

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of `encode`. Raises ProtocolError naming what is wrong."""
        what, next_step = cls.__name__.lower(), "Ask for it again, or name another file."
        if len(data) > MAX_BYTES:
            raise ProtocolError(what, f"has {len(data)} bytes, more than {MAX_BYTES}", next_step)
        value = parse_canonical(data, what)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ProtocolError(what, first_complaint(error), next_step) from error


class HandedCosignature(_File):
    """A witness' signature line for the checkpoint of a log that has so many entries, and its identity certificate."""

    type: Literal["cloister/v1/cosignature"] = "cloister/v1/cosignature"
    log: Text
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    line: Text
    certificate: Annotated[str, Field(max_length=8192)]


class SeenState(Strict):
    """The largest state of one log that somebody has verified."""

    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    root: Hex32


class SeenLogs(_File):
    """What an auditor has seen, by log; kept between visits, it shows a log that was cut back or rewritten since."""

    type: Literal["cloister/v1/seen"] = "cloister/v1/seen"
    logs: dict[Text, SeenState] = Field(default_factory=dict)
