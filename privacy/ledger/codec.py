"""Entries as bytes: one encoding each, canonical JSON (RFC 8785); decoding is strict, so that equal entries have equal
bytes.

`encode_any` and `decode_any` say what the encoding is. `encode_entry` and `decode_entry` do the same, many times
quicker, since entries say the same things again and again.
"""

from functools import lru_cache
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import Strict, first_complaint
from privacy.ledger.entry import MAX_ENTRY_BYTES, SCHEMA, AnyEntry, Entry
from privacy.ledger.forms import read_plain
from privacy.ledger.parts import Charge, LocalNoise, SharedNoise

_ENTRY: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)
_WHAT = "ledger entry"
_NEXT = "See docs/reference/ledger-format.md; a later version of Cloister may have written it."
_KINDS = frozenset(get_args(model.model_fields["kind"].annotation)[0] for model in get_args(get_args(AnyEntry)[0]))


class UnknownFormError(ProtocolError):
    """An entry of a schema or a kind that this version does not know, and a later one may."""


def encode_entry(entry: Entry) -> bytes:
    """The entry's canonical bytes, which are what the Merkle tree hashes."""
    return b"{" + b",".join([before + _text(getattr(entry, name)) for before, name in _members(type(entry))]) + b"}"


def decode_entry(data: bytes) -> AnyEntry:
    """The entry that these bytes are the encoding of. Raises ProtocolError naming the field that is wrong."""
    if len(data) > MAX_ENTRY_BYTES:
        raise ProtocolError(_WHAT, f"has {len(data)} bytes, more than {MAX_ENTRY_BYTES}", _NEXT)
    entry = read_plain(data)
    return decode_any(data) if entry is None else entry


def encode_any(entry: Entry) -> bytes:
    """As `encode_entry`, by the definition."""
    return canonical_json(entry.model_dump(mode="json", by_alias=True))


def decode_any(data: bytes) -> AnyEntry:
    """As `decode_entry`, by the definition: the entry of which these bytes, of whatever number, are the encoding."""
    value = parse_canonical(data, _WHAT)
    _check_known(value)
    try:
        entry = _ENTRY.validate_python(value)
    except ValidationError as error:
        raise ProtocolError(_WHAT, first_complaint(error), _NEXT) from error
    if encode_any(entry) != data:
        raise ProtocolError(_WHAT, "a field is missing or in another form", _NEXT)
    return entry


def _check_known(value: Any) -> None:  # noqa: ANN401 - any JSON value
    said = value if isinstance(value, dict) else {}
    for name, known in (("schema", {SCHEMA}), ("kind", _KINDS)):
        found = said.get(name)
        if isinstance(found, str) and found not in known:
            why = f"is of {name} {found[:80]!r}, which this version of Cloister does not know"
            raise UnknownFormError(_WHAT, why, "Verify it with a newer version of Cloister, which may know it.")


@lru_cache
def _members(model: type[Entry]) -> list[tuple[bytes, str]]:
    """The model's fields in canonical order, each behind the text that stands before its value."""
    aliases = sorted((field.alias or name, name) for name, field in model.model_fields.items())
    return [(f'"{alias}":'.encode(), name) for alias, name in aliases]


def _text(value: Any) -> bytes:  # noqa: ANN401 - what a field holds
    return _repeated(value) if isinstance(value, Charge | LocalNoise | SharedNoise) else _canonical(value)


@lru_cache(1024)
def _repeated(value: Strict) -> bytes:
    return _canonical(value)


def _canonical(value: Any) -> bytes:  # noqa: ANN401
    return canonical_json(to_jsonable_python(value, by_alias=True))
