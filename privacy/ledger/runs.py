"""Members of entries that repeat from entry to entry, decoded once and remembered by their text."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError, create_model
from pydantic.fields import FieldInfo

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import Strict

REMEMBERED = 1024
"""So many texts of one run are remembered, of at most LONGEST characters each."""

LONGEST = 8192
_HEAD = 192  # characters, by which a text is looked up first: in these, most that differ do

Values = Mapping[str, Any]
"""Values by the names of fields."""


class NotPlain(Exception):  # noqa: N818 - no failure: the general way reads it, or says what is wrong
    """This text cannot be read here."""


class Run:
    """Some members of an object, one after the other: `"a":1,"b":2`, their values by name."""

    def __init__(self, members: Sequence[tuple[str, FieldInfo]]) -> None:
        self._decoded = lru_cache(REMEMBERED)(_decoder(dict(members)))
        self._by_head: dict[str, tuple[str, Values]] = {}

    def read(self, text: str, start: int, before: str) -> tuple[int, Values]:
        """Where the run that starts here ends, and what it says; `before` is the text that should follow it.

        What it returns is the end of members that are canonical together, whether or not `before` follows. Raises
        NotPlain.
        """
        head = text[start : start + _HEAD]
        known = self._by_head.get(head)
        if known is not None and text.startswith(known[0], start):
            return start + len(known[0]), known[1]
        end = text.find(before, start)
        if not start < end <= start + LONGEST:
            raise NotPlain
        found = text[start:end]
        values = self._decoded(found)
        if len(self._by_head) >= REMEMBERED:
            self._by_head.clear()
        self._by_head[head] = found, values
        return end, values


def _decoder(members: Mapping[str, FieldInfo]) -> Callable[[str], Values]:
    """Decodes a run the general way; what it returns raises NotPlain for all but canonical texts of these members."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in members.items()}
    model = create_model("Run", __base__=Strict, **fields)

    def decode(text: str) -> Values:
        data = b"{" + text.encode() + b"}"
        try:
            found = model.model_validate(parse_canonical(data, "members"))
        except (ProtocolError, ValidationError) as error:
            raise NotPlain from error
        if canonical_json(found.model_dump(mode="json", by_alias=True)) != data:
            raise NotPlain
        return {name: _one(value) if isinstance(value, Strict) else value for name, value in found.__dict__.items()}

    return decode


@lru_cache(REMEMBERED)
def _one(value: Strict) -> Strict:
    """One object for equal ones in different runs, so that they are compared at a glance."""
    return value
