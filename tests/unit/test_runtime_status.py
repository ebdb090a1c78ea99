"""Errors on the wire, and metrics: what a hostile or broken server can make a client print."""

import socket
import urllib.request

import grpc
import pytest
from prometheus_client import CollectorRegistry, Counter

from privacy.canonical import canonical_json
from privacy.errors import ConfigError, InternalError, ProtocolError, Refused, Unavailable
from runtime.metrics import start_metrics
from runtime.status import METADATA_KEY, NotAdmitted, from_rpc_error, to_status


class Failure(grpc.RpcError, grpc.Call):
    """What grpcio raises, with a server's choice of contents."""

    def __init__(self, code=grpc.StatusCode.UNKNOWN, details="", metadata=()):
        self._parts = (code, details, metadata)

    def code(self):
        return self._parts[0]

    def details(self):
        return self._parts[1]

    def trailing_metadata(self):
        return self._parts[2]

    def initial_metadata(self):
        return ()

    def is_active(self):
        return False

    def time_remaining(self):
        return None

    def cancel(self):
        return False

    def add_callback(self, callback):
        return False


def sent(body):
    return Failure(metadata=((METADATA_KEY, body),))


def test_an_error_survives_the_journey():
    status = to_status(Refused("job é", "w" * 5000, "Raise it."))
    assert status.code is grpc.StatusCode.PERMISSION_DENIED
    assert status.details.startswith("job ?: www")
    assert sum(len(value) for _, value in status.metadata) < 4000
    error = from_rpc_error(Failure(metadata=status.metadata), "call")
    assert type(error) is Refused
    assert (error.what, error.why, error.next_step) == ("job é", "w" * 1000, "Raise it.")


def test_who_is_not_admitted_may_come_again():
    status = to_status(NotAdmitted("the caller's certificate", "is not valid yet", "Compare the clocks."))
    assert status.code is grpc.StatusCode.UNAUTHENTICATED
    error = from_rpc_error(Failure(metadata=status.metadata), "call")
    assert type(error) is Unavailable
    assert (error.what, error.why) == ("the caller's certificate", "is not valid yet")


def test_terminal_escapes_of_a_server_are_replaced():
    body = {"kind": "refused", "what": "a\x1b[2Jb", "why": "c\nd", "next_step": "e\u202ef"}
    error = from_rpc_error(sent(canonical_json(body)), "call")
    assert (error.what, error.why, error.next_step) == ("a\ufffd[2Jb", "c\ufffdd", "e\ufffdf")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        canonical_json({"kind": "config", "what": "a", "why": "b", "next_step": "c"}),
        canonical_json({"kind": "refused", "what": 1, "why": "b", "next_step": "c"}),
    ],
)
def test_unreadable_errors_are_the_peers_fault(body):
    with pytest.raises(ProtocolError, match="the other side's error cannot be read"):
        raise from_rpc_error(sent(body), "call")


@pytest.mark.parametrize(
    ("code", "details", "family"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", Unavailable),
        (grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED", ConfigError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", Unavailable),
        (grpc.StatusCode.UNKNOWN, "Exception calling application: age 63", Unavailable),
        (grpc.StatusCode.PERMISSION_DENIED, "", Refused),
        (grpc.StatusCode.UNAUTHENTICATED, "", Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, "", ConfigError),
    ],
)
def test_plain_statuses_have_a_family(code, details, family):
    error = from_rpc_error(Failure(code, details), "call of X")
    assert type(error) is family
    assert error.what == "call of X"
    assert "63" not in str(error)


def test_what_is_local_is_not_told():
    for error in (ConfigError("/etc/x", "/etc/y", "/etc/z"), InternalError("/etc/x", "/etc/y", "/etc/z")):
        assert b"/etc" not in to_status(error).metadata[0][1]
        assert "/etc" not in to_status(error).details


def test_metrics_are_local_and_a_taken_port_is_named():
    registry = CollectorRegistry()
    Counter("rounds", "Rounds.", registry=registry).inc()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics port {port}: .*in use. Set another"):
            start_metrics(port, registry)
    stop = start_metrics(port, registry)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"rounds_total 1.0" in answer.read()
    stop()
