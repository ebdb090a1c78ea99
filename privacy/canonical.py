"""Canonical bytes and labelled digests: one value, one encoding, one hash.

JSON after RFC 8785 (JCS); digests are SHA-256 over length-prefixed parts behind a version label, so that no byte
string hashed for one purpose can stand for another.
"""

import hashlib
import json
from typing import Any

import rfc8785

from privacy.errors import InternalError, ProtocolError

DIGEST_BYTES = 32


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The RFC 8785 encoding of a JSON value. Raises InternalError on NaN, infinities and integers over 2^53."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise InternalError("canonical JSON", str(error), "Report this; nothing was written.") from error


def parse_canonical(data: bytes, what: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse bytes that must be the canonical encoding of what they mean.

    Raises ProtocolError, naming `what`, on anything that is not JSON or not its own re-encoding (duplicate keys,
    white space, other number forms), so that equal values always have equal bytes.
    """
    next_step = "The sender must encode it as RFC 8785 JSON; nothing was accepted."
    try:
        value = json.loads(data)
        again = rfc8785.dumps(value)
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise ProtocolError(what, f"is not canonical JSON ({type(error).__name__})", next_step) from error
    if again != data:
        raise ProtocolError(what, "is JSON, but not in its canonical form", next_step)
    return value


def digest(label: str, *parts: bytes | memoryview) -> bytes:
    """SHA-256 over `label` and the parts, each behind its 8-byte big-endian length. Returns 32 bytes."""
    state = hashlib.sha256()
    for part in (label.encode(), *parts):
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
