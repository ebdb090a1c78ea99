"""A port whose certificate is renewed: calls under way go on, and new ones meet another server with the new one."""

import io
import queue
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from certs.names import Role
from certs.verify import Kind
from certs.wallet import Wallet
from privacy.errors import CloisterError, ConfigError, Unavailable
from runtime import listening
from runtime.channels import bind, new_server, open_channel, server_credentials, split_address
from runtime.interceptors import StatusInterceptor
from runtime.listening import ServerPort
from runtime.logs import configure_logs
from runtime.status import peer_call
from tests.pki import make_ca, make_wallet

NOW = datetime.now(UTC).replace(microsecond=0)  # TLS libraries read the machine's own clock
CALL_S = 20.0


def serial(_request: bytes, context: grpc.ServicerContext) -> bytes:
    """The number of the certificate that the caller shows."""
    (pem,) = context.auth_context()["x509_pem_cert"]
    return str(x509.load_pem_x509_certificate(pem).serial_number).encode()


def echo(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


SERVICE = grpc.method_handlers_generic_handler(
    "t.Service",
    {"Serial": grpc.unary_unary_rpc_method_handler(serial), "Echo": grpc.stream_stream_rpc_method_handler(echo)},
)


def make_server() -> grpc.Server:
    server = new_server([StatusInterceptor()], workers=8)
    server.add_generic_rpc_handlers((SERVICE,))
    return server


class Town:
    """A federation with one port; `hub` is whose it is."""

    def __init__(self, folder: Path) -> None:
        self.ca = make_ca(folder, NOW)
        self.hub = make_wallet(self.ca, folder, Role.AGGREGATOR, "hub", NOW)
        self.silo = make_wallet(self.ca, folder, now=NOW)
        self.port = ServerPort(make_server, server_credentials, "127.0.0.1:0", self.hub)
        self.address = f"127.0.0.1:{self.port.bind(NOW)}"
        self.port.start()

    def renew(self, wallet: Wallet) -> None:
        """As the CA's keeper does, in another process."""
        wallet.install_renewal(self.ca.renew(wallet.party, wallet.renewal_request(), NOW), NOW)

    def shown(self) -> int:
        """The number of the certificate that the port shows to who dials now."""
        pem = ssl.get_server_certificate(split_address(self.address), timeout=CALL_S)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def call(self) -> int:
        with open_channel(self.address, self.silo, NOW) as channel, peer_call("call"):
            return int(channel.unary_unary("/t.Service/Serial")(b"", timeout=CALL_S))


@pytest.fixture(name="town")
def _town(tmp_path: Path) -> Iterator[Town]:
    configure_logs(stream=io.StringIO())
    town = Town(tmp_path)
    yield town
    for ended in town.port.stop(0):
        assert ended.wait(CALL_S)


def test_renewed_certificates_are_used_by_new_connections_on_both_sides(town: Town) -> None:
    for wallet in (town.hub, town.silo):
        town.renew(wallet)
        town.port.renew(NOW)
        assert town.shown() == town.hub.leaf(Kind.TLS).serial
        assert town.call() == town.silo.leaf(Kind.TLS).serial


def test_calls_under_way_go_on_under_the_certificate_before(town: Town) -> None:
    words: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with open_channel(town.address, town.silo, NOW) as channel:
        talk = channel.stream_stream("/t.Service/Echo")(iter(words.get, b""), timeout=CALL_S)
        words.put(b"before")
        assert next(talk) == b"before"
        town.renew(town.hub)
        town.port.renew(NOW)
        words.put(b"after")
        assert next(talk) == b"after"
        assert town.shown() == town.hub.leaf(Kind.TLS).serial
        ((_, left),) = town.port._leaving
        assert not left.is_set()
        words.put(b"")
        assert list(talk) == []
    assert left.wait(CALL_S)
    town.port.renew(NOW)
    assert town.port._leaving == []  # what has left takes no memory


def test_calls_that_do_not_end_are_ended(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "DRAIN_S", 0.1)
    words: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with open_channel(town.address, town.silo, NOW) as channel:
        talk = channel.stream_stream("/t.Service/Echo")(iter(words.get, b""), timeout=CALL_S)
        words.put(b"before")
        assert next(talk) == b"before"
        town.renew(town.hub)
        town.port.renew(NOW)
        with pytest.raises(Unavailable, match="ended"), peer_call("talk"):
            next(talk)
        words.put(b"")
    assert town.call()


def test_another_certificate_is_another_server(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would do it without a lock (grpc/grpc#36693): the process dies when handshakes coincide."""

    def unsafe(*_args: object, **_options: object) -> None:
        raise AssertionError("gRPC was asked to exchange certificates")

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", unsafe)
    before = town.port._server
    town.renew(town.hub)
    town.port.renew(NOW)
    after = town.port._server
    assert after is not before
    town.port.renew(NOW)
    assert town.port._server is after  # nothing new, nothing done


def test_callers_come_through_while_certificates_are_renewed(town: Town) -> None:
    answers: list[int] = []

    def dial() -> None:
        while len(answers) < 100:
            try:
                answers.append(town.call())
            except Unavailable:  # nobody listened just then
                continue

    callers = [threading.Thread(target=dial) for _ in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(10):
        town.renew(town.hub)
        town.port.renew(NOW)
    for caller in callers:
        caller.join()
    assert set(answers) == {town.silo.leaf(Kind.TLS).serial}


def test_a_wallet_that_cannot_be_used_changes_nothing(town: Town) -> None:
    before, good = town.shown(), (town.hub.folder / "tls.pem").read_bytes()
    (town.hub.folder / "tls.pem").write_bytes(b"damaged")
    town.port.renew(NOW)
    assert town.shown() == before
    (town.hub.folder / "tls.pem").write_bytes(good)
    assert town.call()


def test_a_port_that_another_program_took_is_taken_back_later(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [True]

    def bind_unless_taken(*args: object) -> int:
        if taken:
            raise ConfigError(
                f"listening on {town.address}", "address already in use", "Stop the program that uses it."
            )
        return bind(*args)

    monkeypatch.setattr(listening, "bind", bind_unless_taken)
    monkeypatch.setattr(listening, "REBIND_S", 0.1)
    town.renew(town.hub)
    town.port.renew(NOW)
    with pytest.raises(CloisterError):
        town.call()
    taken.clear()
    town.port.renew(NOW)
    assert town.shown() == town.hub.leaf(Kind.TLS).serial
