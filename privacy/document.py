"""Documents: strict values that are kept or carried as canonical JSON, so that one value has one encoding."""

from typing import ClassVar, Self

from pydantic import ValidationError

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import Strict, first_complaint


class Document(Strict):
    """A value that encodes to RFC 8785 JSON, every field in it, and is decoded from nothing else."""

    what: ClassVar[str]  # as errors name it
    next_step: ClassVar[str]
    most_bytes: ClassVar[int] = 1 << 26

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of `encode`. Raises ProtocolError naming the field that is wrong."""
        if len(data) > cls.most_bytes:
            raise ProtocolError(cls.what, f"has {len(data)} bytes, more than {cls.most_bytes}", cls.next_step)
        value = parse_canonical(data, cls.what)
        try:
            made = cls.model_validate(value)
        except ValidationError as error:
            raise ProtocolError(cls.what, first_complaint(error), cls.next_step) from error
        if made.encode() != data:
            raise ProtocolError(cls.what, "a field is missing or in another form", cls.next_step)
        return made
