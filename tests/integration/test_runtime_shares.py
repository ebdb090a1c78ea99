"""What one caller must not do to a server: take every thread, also by calls that never carry a message; crash it."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from certs.names import Role
from privacy.errors import ProtocolError, Unavailable
from runtime import channels
from runtime.channels import RevocationFile, bind, new_server, open_channel, server_credentials
from runtime.interceptors import PeerInterceptor, ShareInterceptor, StatusInterceptor
from runtime.logs import configure_logs
from runtime.status import peer_call
from tests.integration.test_runtime_channels import NOW, ROLES, SERVICE
from tests.pki import make_ca, make_wallet

CALL_S = 20


@pytest.fixture(name="dial")
def _dial(tmp_path: Path) -> Iterator:
    """Opens channels, by a silo's name, to a server with four threads, of which a party may hold two."""
    configure_logs(stream=io.StringIO())
    ca = make_ca(tmp_path, NOW)
    peers = PeerInterceptor(ca.ca_pem, ROLES, RevocationFile(tmp_path / "ca" / "crl.pem", ca.ca_pem), lambda: NOW)
    server = new_server([StatusInterceptor(), peers, ShareInterceptor(2)], workers=4)
    server.add_generic_rpc_handlers((SERVICE,))
    hub = make_wallet(ca, tmp_path, Role.AGGREGATOR, "hub", NOW)
    port = bind(server, "127.0.0.1:0", server_credentials(hub, NOW))
    server.start()
    wallets = {name: make_wallet(ca, tmp_path, name=name, now=NOW) for name in ("greedy", "honest")}
    opened: list[grpc.Channel] = []

    def dial(name: str) -> grpc.Channel:
        opened.append(open_channel(f"127.0.0.1:{port}", wallets[name], NOW))
        return opened[-1]

    yield dial
    for channel in opened:
        channel.close()
    server.stop(0).wait()


def test_a_party_has_its_share_of_calls_and_no_more(dial) -> None:
    let_go = threading.Event()

    def one_message() -> Iterator[bytes]:
        yield b"open"
        let_go.wait(CALL_S)

    def no_message() -> Iterator[bytes]:
        let_go.wait(CALL_S)
        yield from ()

    talks = [dial("greedy").stream_stream("/t.Service/Talk")(one_message(), timeout=CALL_S) for _ in range(2)]
    for talk in talks:
        assert next(talk) == b"open"
    for method in ("One", "Download"):
        with pytest.raises(Unavailable, match="silo/greedy has 2 calls open already"), peer_call("call"):
            next(dial("greedy").stream_stream(f"/t.Service/{method}")(no_message(), timeout=CALL_S))
    assert dial("honest").unary_unary("/t.Service/One")(b"hello", timeout=CALL_S) == b"hello"
    let_go.set()
    for talk in talks:
        assert list(talk) == []
    channel = dial("greedy")
    for _ in range(5):  # what ended counts no more, also when it ended badly
        assert channel.unary_unary("/t.Service/One")(b"again", timeout=CALL_S) == b"again"
        with pytest.raises(ProtocolError), peer_call("call"):
            channel.unary_unary("/t.Service/One")(b"protocol", timeout=CALL_S)


def test_a_call_without_a_message_is_refused(dial) -> None:
    with pytest.raises(ProtocolError, match="call: carries no message"), peer_call("call"):
        dial("honest").stream_unary("/t.Service/One")(iter(()), timeout=CALL_S)


def test_grpc_knows_every_option_that_is_set() -> None:
    """It ignores others silently; one such let the server end every connection that was quiet for 90 seconds."""
    library = Path(cygrpc.__file__).read_bytes()
    for name, _ in (*channels._SERVER_OPTIONS, *channels._CHANNEL_OPTIONS):
        assert name.encode() in library, name
