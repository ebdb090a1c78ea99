"""Entries as bytes: one encoding each, canonical JSON (RFC 8785); decoding is strict, so that equal entries have equal
bytes.
"""

from pydantic import TypeAdapter, ValidationError

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import first_complaint
from privacy.ledger.entry import MAX_ENTRY_BYTES, AnyEntry, Entry
from privacy.ledger.forms import read_plain

_ENTRY: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)
_WHAT, _NEXT = "ledger entry", "See docs/reference/ledger-format.md."


def encode_entry(entry: Entry) -> bytes:
    """The entry's canonical bytes, which are what the Merkle tree hashes."""
    return canonical_json(entry.model_dump(mode="json", by_alias=True))


def decode_entry(data: bytes) -> AnyEntry:
    """The entry that these bytes are the encoding of. Raises ProtocolError naming the field that is wrong."""
    if len(data) > MAX_ENTRY_BYTES:
        raise ProtocolError(_WHAT, f"has {len(data)} bytes, more than {MAX_ENTRY_BYTES}", _NEXT)
    entry = read_plain(data)
    return decode_any(data) if entry is None else entry


def decode_any(data: bytes) -> AnyEntry:
    """The same, slowly, of an entry in any text: this defines what decodes, `privacy.ledger.forms` is quicker.

    Raises ProtocolError as `decode_entry`.
    """
    value = parse_canonical(data, _WHAT)
    try:
        entry = _ENTRY.validate_python(value)
    except ValidationError as error:
        raise ProtocolError(_WHAT, first_complaint(error), _NEXT) from error
    if encode_entry(entry) != data:
        raise ProtocolError(_WHAT, "a field is missing or in another form", _NEXT)
    return entry
