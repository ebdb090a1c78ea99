"""The one place where errors become gRPC statuses and back.

An error of ours travels as a status code and, in the trailing metadata, canonical JSON {kind, next_step, what, why};
the client raises the same class. What concerns only the machine of the side that failed (ConfigError, a bug) is kept
in that side's log: its text may name paths, and the peer can do nothing about it.

A refusal at the door (UNAUTHENTICATED) says nothing about the call: at the client it is Unavailable, so that whoever
waits for an answer asks again once the certificate, a clock or the revocation list is right.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import (
    CloisterError,
    ConfigError,
    InternalError,
    ProtocolError,
    Refused,
    Unavailable,
    VerificationError,
)
from runtime.console import printable

METADATA_KEY = "cloister-error-bin"


class NotAdmitted(Refused):
    """The caller's connection or certificate is not good now; what it asked for was not looked at."""


_DOOR = ("not-admitted", grpc.StatusCode.UNAUTHENTICATED)
_CODES: dict[type[CloisterError], tuple[str, grpc.StatusCode]] = {
    ProtocolError: ("protocol", grpc.StatusCode.INVALID_ARGUMENT),
    Refused: ("refused", grpc.StatusCode.PERMISSION_DENIED),
    VerificationError: ("verification", grpc.StatusCode.FAILED_PRECONDITION),
    Unavailable: ("unavailable", grpc.StatusCode.UNAVAILABLE),
    InternalError: ("internal", grpc.StatusCode.INTERNAL),
}
_CLASSES = {kind: family for family, (kind, _) in _CODES.items()} | {_DOOR[0]: Unavailable}
_LONGEST = 1000  # characters of one sentence: gRPC metadata is limited to 8 KiB
_LATER = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class WireStatus(NamedTuple):
    """What a servicer aborts with."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, bytes], ...]


def to_status(error: CloisterError) -> WireStatus:
    """The status that carries `error` to the peer."""
    told = _told(error)
    kind, code = _entry(told)
    body = {"kind": kind, "next_step": told.next_step, "what": told.what, "why": told.why}
    short = {key: text[:_LONGEST] for key, text in body.items()}
    details = f"{short['what']}: {short['why']}".encode("ascii", "replace").decode("ascii")
    return WireStatus(code, details, ((METADATA_KEY, canonical_json(short)),))


def from_rpc_error(error: grpc.RpcError, what: str) -> CloisterError:
    """The error a failed call stands for: the peer's own if it sent one, else by status. `what` names the call."""
    if not isinstance(error, grpc.Call):
        return Unavailable(what, "the call could not be made", "Run it again.")
    for key, value in error.trailing_metadata() or ():
        if key == METADATA_KEY and isinstance(value, bytes):
            return _decode(value, what)
    return _from_code(error.code(), error.details() or "", what)


@contextlib.contextmanager
def peer_call(what: str) -> Iterator[None]:
    """Everything a gRPC call raises in this block (also while a stream is read) comes out as a CloisterError."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, what) from error
    except ValueError as error:  # grpcio: "Cannot invoke RPC on closed channel!"
        if "closed channel" not in str(error):
            raise
        raise Unavailable(what, "the connection was closed on this side", "Run it again.") from error


def _entry(error: CloisterError) -> tuple[str, grpc.StatusCode]:
    if isinstance(error, NotAdmitted):
        return _DOOR
    return next(entry for family, entry in _CODES.items() if isinstance(error, family))


def _told(error: CloisterError) -> CloisterError:
    if isinstance(error, ConfigError):
        return Unavailable(
            "the other side", "has a fault in its configuration or on its machine", "Ask its operator to read its log."
        )
    if isinstance(error, InternalError) or type(error) is CloisterError:
        return InternalError("the other side", "met a bug", "Ask its operator to read its log, and to report it.")
    return error


def _decode(data: bytes, what: str) -> CloisterError:
    try:
        value = parse_canonical(data, "error status")
        texts = [_readable(value[key]) for key in ("what", "why", "next_step")]
        return _CLASSES[value["kind"]](*texts)
    except (ProtocolError, KeyError, TypeError, AttributeError):
        return ProtocolError(what, "the other side's error cannot be read", "Compare the two software versions.")


def _readable(text: Any) -> str:  # noqa: ANN401 - parsed JSON
    """At most 1000 characters, none of which moves a terminal's cursor."""
    if not isinstance(text, str):
        raise TypeError(type(text).__name__)
    return printable(text[:_LONGEST])


def _from_code(code: grpc.StatusCode, details: str, what: str) -> CloisterError:
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return ConfigError(
            what,
            "the server's certificate is not for this address, has expired, or is not of our federation's CA",
            "Check the address, this machine's clock, and `cloister certs show` of the aggregator's folder.",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(what, "no answer came before the deadline", "Run it again; see that the server is up.")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            what,
            "the server cannot be reached, or ended the connection (it does so when it does not accept a certificate)",
            "See that the address is right and the server is up, and that it was told of no revocation of ours.",
        )
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return Refused(what, "the server refused it", "Ask the coordinator.")
    if code in _LATER:
        return Unavailable(what, f"the server failed ({code.name})", "Run it again; its operator's log says more.")
    return ConfigError(
        what, f"the server answered {code.name}", "Check its address; compare the software versions of the two sides."
    )
