"""gRPC over mutual TLS, for real: a server and clients on loopback, and every way in that must be shut."""

import socket
import ssl
import struct
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509

from certs.names import PartyId, Role
from privacy.errors import ConfigError, InternalError, ProtocolError, Refused, Unavailable, VerificationError
from runtime.channels import (
    RevocationFile,
    bind,
    enrolment_credentials,
    new_server,
    open_channel,
    open_enrolment_channel,
    server_credentials,
    split_address,
)
from runtime.interceptors import PeerInterceptor, StatusInterceptor, Tls13Interceptor, peer_of
from runtime.status import peer_call
from tests.pki import make_ca, make_wallet, odd_tls

NOW = datetime.now(UTC).replace(microsecond=0)  # TLS libraries read the machine's own clock
SILOS = frozenset({Role.SILO})
ERRORS = {
    b"protocol": ProtocolError("header of hospital-a", "is altered", "Send it again."),
    b"refused": Refused("job", "too dear", "Raise the budget."),
    b"verification": VerificationError("proof", "does not hold", "Ask."),
    b"unavailable": Unavailable("round 3", "is closed", "Wait for round 4."),
    b"config": ConfigError("/srv/secret/path", "missing", "Make it."),
    b"internal": InternalError("an invariant of /srv/secret/path", "broken", "Report."),
    b"bug": ZeroDivisionError("patient is 63"),
}


def act(request, context):
    if request in ERRORS:
        raise ERRORS[request]
    if request == b"whoami":
        return peer_of(context).uri.encode()
    return request


def act_on_stream(requests, context):
    return b"".join(act(request, context) for request in requests)


def act_many(request, context):
    yield b"first"
    yield act(request, context)


def act_many_on_stream(requests, context):
    for request in requests:
        yield act(request, context)


SERVICE = grpc.method_handlers_generic_handler(
    "t.Service",
    {
        "One": grpc.unary_unary_rpc_method_handler(act),
        "Upload": grpc.stream_unary_rpc_method_handler(act_on_stream),
        "Download": grpc.unary_stream_rpc_method_handler(act_many),
        "Talk": grpc.stream_stream_rpc_method_handler(act_many_on_stream),
        "Unlisted": grpc.unary_unary_rpc_method_handler(act),
        "Coordinate": grpc.unary_unary_rpc_method_handler(act),
    },
)
ROLES = {f"/t.Service/{name}": SILOS for name in ("One", "Upload", "Download", "Talk")}
ROLES["/t.Service/Coordinate"] = frozenset({Role.COORDINATOR})


class Clock:
    now = NOW

    def __call__(self):
        return self.now


class World:
    """A federation with a running server; `dial` makes one call as a wallet's party."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = make_ca(folder, NOW)
        self.hub = make_wallet(self.ca, folder, Role.AGGREGATOR, "hub", NOW)
        self.silo = make_wallet(self.ca, folder, now=NOW)
        self.clock = Clock()
        revoked = RevocationFile(folder / "ca" / "crl.pem", self.ca.ca_pem)
        peers = PeerInterceptor(self.ca.ca_pem, ROLES, revoked, self.clock)
        self.server = new_server([StatusInterceptor(), peers], workers=4)
        self.server.add_generic_rpc_handlers((SERVICE,))
        port = bind(self.server, "127.0.0.1:0", server_credentials(self.hub, NOW))
        self.address = f"127.0.0.1:{port}"
        self.server.start()

    def channel(self, wallet=None):
        return open_channel(self.address, wallet or self.silo, NOW)

    def call(self, request=b"hello", wallet=None, method="One"):
        with self.channel(wallet) as channel, peer_call(f"call of {method}"):
            return channel.unary_unary(f"/t.Service/{method}")(request, timeout=10)

    def raw(self, own, ca_pem, address=None):
        """As an adversary or a broken client would, without our own checks first."""
        credentials = grpc.ssl_channel_credentials(ca_pem, own and own.key_pem, own and own.certificate_pem)
        with grpc.secure_channel(address or self.address, credentials) as channel, peer_call("call"):
            return channel.unary_unary("/t.Service/One")(b"hello", timeout=10)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.server.stop(0).wait()


def test_a_caller_is_who_its_certificate_names(world):
    assert world.call(b"whoami") == b"cloister://heart-study/silo/hospital-a"


def test_all_four_kinds_of_call_work_and_are_guarded(world):
    with world.channel() as channel:
        assert channel.stream_unary("/t.Service/Upload")(iter([b"a", b"b"]), timeout=10) == b"ab"
        assert list(channel.unary_stream("/t.Service/Download")(b"a", timeout=10)) == [b"first", b"a"]
        assert list(channel.stream_stream("/t.Service/Talk")(iter([b"a", b"b"]), timeout=10)) == [b"a", b"b"]
        world.clock.now = NOW + timedelta(days=31)
        calls = [
            lambda: channel.unary_unary("/t.Service/One")(b"a", timeout=10),
            lambda: channel.stream_unary("/t.Service/Upload")(iter([b"a"]), timeout=10),
            lambda: list(channel.unary_stream("/t.Service/Download")(b"a", timeout=10)),
            lambda: list(channel.stream_stream("/t.Service/Talk")(iter([b"a"]), timeout=10)),
        ]
        for call in calls:  # the connection outlives the certificate; the calls do not
            with pytest.raises(Unavailable, match="the caller's certificate: expired at"), peer_call("call"):
                call()


@pytest.mark.parametrize("kind", [b"protocol", b"refused", b"verification", b"unavailable"])
def test_errors_arrive_as_what_they_were(world, kind):
    sent = ERRORS[kind]
    with pytest.raises(type(sent)) as caught:
        world.call(kind)
    assert (caught.value.what, caught.value.why, caught.value.next_step) == (sent.what, sent.why, sent.next_step)


@pytest.mark.parametrize(
    ("kind", "family", "message"),
    [
        (b"config", Unavailable, "the other side: has a fault in its configuration"),
        (b"internal", InternalError, "the other side: met a bug"),
        (b"bug", InternalError, "the other side: met a bug"),
    ],
)
def test_what_concerns_only_the_server_stays_there(world, kind, family, message):
    with pytest.raises(family, match=message) as caught:
        world.call(kind)
    assert "secret" not in str(caught.value)
    assert "63" not in str(caught.value)


def test_errors_in_the_middle_of_streams_arrive_too(world):
    with world.channel() as channel:
        received = []

        def download():
            with peer_call("download"):
                received.extend(channel.unary_stream("/t.Service/Download")(b"refused", timeout=10))

        with pytest.raises(Refused, match="job: too dear"):
            download()
        assert received in ([], [b"first"])
        with pytest.raises(ProtocolError, match="is altered"), peer_call("upload"):
            channel.stream_unary("/t.Service/Upload")(iter([b"a", b"protocol"]), timeout=10)


def test_roles_are_checked_and_unlisted_methods_are_shut(world):
    coordinator = make_wallet(world.ca, world.folder, Role.COORDINATOR, "carol", NOW)
    assert world.call(wallet=coordinator, method="Coordinate") == b"hello"
    with pytest.raises(Refused, match="the role coordinator may not make it"):
        world.call(wallet=coordinator)
    with pytest.raises(Refused, match="the role silo may not make it"):
        world.call(method="Coordinate")
    with pytest.raises(Refused, match="the role silo may not make it"):
        world.call(method="Unlisted")
    with pytest.raises(ConfigError, match=r"the server answered UNIMPLEMENTED\. .* compare the software versions"):
        world.call(method="Nonexistent")


def test_a_revoked_party_is_shut_out_at_once(world):
    with world.channel() as channel:
        assert channel.unary_unary("/t.Service/One")(b"a", timeout=10) == b"a"
        world.ca.revoke(PartyId("heart-study", Role.SILO, "hospital-a"), NOW)
        with pytest.raises(Unavailable, match="hospital-a: has been revoked"), peer_call("call"):
            channel.unary_unary("/t.Service/One")(b"a", timeout=10)


def test_without_a_revocation_list_nobody_is_let_in(world):
    (world.folder / "ca" / "crl.pem").unlink()
    with pytest.raises(Unavailable, match="has a fault in its configuration"):
        world.call()


def test_a_client_of_another_ca_gets_nothing(world, tmp_path):
    other = make_wallet(make_ca(tmp_path / "other", NOW), tmp_path / "other", now=NOW)
    with pytest.raises(ConfigError, match=r"the server's certificate is not for this address.*of our federation's CA"):
        world.call(wallet=other)
    with pytest.raises(Unavailable, match="when it does not accept a certificate"):
        world.raw(other.tls(), world.ca.ca_pem)


def test_a_client_without_a_certificate_gets_nothing(world):
    with pytest.raises(Unavailable, match="cannot be reached, or ended the connection"):
        world.raw(None, world.ca.ca_pem)


def test_a_server_certificate_does_not_make_a_client(world):
    with pytest.raises(Unavailable, match="ended the connection"):
        world.raw(world.hub.tls(), world.ca.ca_pem)


def test_an_expired_certificate_is_named_before_dialling(world, tmp_path):
    old = make_wallet(world.ca, tmp_path / "old", now=NOW - timedelta(days=31))
    with pytest.raises(ConfigError, match=r"tls.pem: expired at .*cloister certs renew"):
        world.call(wallet=old)
    with pytest.raises(Unavailable, match="ended the connection"):
        world.raw(old.tls(), world.ca.ca_pem)


def test_a_party_of_another_federation_under_the_same_key_is_refused(world):
    """A CA key shared by two federations (a copied folder): TLS accepts the leaf, the name does not pass."""
    name = x509.UniformResourceIdentifier("cloister://lung-study/silo/hospital-a")
    own = odd_tls(world.ca, [name], now=NOW)
    with pytest.raises(Unavailable, match="names federation lung-study, and the CA is that of heart-study"):
        world.raw(own, world.ca.ca_pem)


HOSPITAL = "cloister://heart-study/silo/hospital-a"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "the caller's certificate: names 0 parties; it must name one"),
        ([HOSPITAL, "cloister://heart-study/silo/hospital-b"], "names 2 parties; it must name one"),
        ([HOSPITAL, "https://heart-study.example.org"], "names 2 parties; it must name one"),
        (["https://heart-study.example.org/silo/hospital-a"], "which is no party"),
        ([HOSPITAL.replace("silo", "king")], "/king/hospital-a', which is no party"),
        ([HOSPITAL.replace("hospital", "Hospital")], "which is no party"),
        ([f"{HOSPITAL}/ward-3"], "which is no party"),
        ([f"{HOSPITAL}\n"], "which is no party"),
    ],
)
def test_a_leaf_that_does_not_name_exactly_one_party_calls_nothing(world, names, why):
    """TLS accepts it, since this CA's key signed it; the server would not know who calls."""
    general = [x509.DNSName("hospital-a.example.org"), *map(x509.UniformResourceIdentifier, names)]
    with pytest.raises(Unavailable) as caught:
        world.raw(odd_tls(world.ca, general, now=NOW), world.ca.ca_pem)
    assert why in str(caught.value)


def test_a_server_under_another_name_is_not_believed(world, tmp_path):
    """The same federation's aggregator, at an address its certificate does not carry."""
    from certs.wallet import Wallet

    party = PartyId("heart-study", Role.AGGREGATOR, "elsewhere")
    wallet = Wallet.create(tmp_path / "elsewhere", world.ca.ca_pem, party)
    requests = wallet.requests()
    wallet.install(world.ca.issue(party, requests.tls, requests.identity, NOW, ("hub.example.org",)), NOW)
    server = new_server([StatusInterceptor()], workers=1)
    server.add_generic_rpc_handlers((SERVICE,))
    port = bind(server, "127.0.0.1:0", server_credentials(wallet, NOW))
    server.start()
    with pytest.raises(ConfigError, match="is not for this address"):
        world.raw(world.silo.tls(), world.ca.ca_pem, f"127.0.0.1:{port}")
    server.stop(0).wait()


def test_a_silo_cannot_play_the_server(world):
    with pytest.raises(ConfigError, match="this command runs as a party of role aggregator"):
        server_credentials(world.silo, NOW)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def speak_http2(world, wallet, version):
    """One gRPC call over exactly this TLS version, in HTTP/2 by hand: no client library still speaks TLS 1.2 for us."""
    context = ssl.create_default_context(cadata=world.ca.ca_pem.decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(wallet.folder / "tls.pem", wallet.folder / "tls.key")
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/t.Service/One",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )
    message = b"\x00" + struct.pack(">I", 6) + b"whoami"
    host, port = split_address(world.address)
    received = b""
    plain = socket.create_connection((host, port), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=host) as secured:
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        secured.sendall(frame(1, 4, 1, block) + frame(0, 1, 1, message))
        while b"TLS" not in received and b"cloister://" not in received and (part := secured.recv(65_536)):
            received += part
        return secured.version(), received


def test_tls_1_2_is_refused_and_1_3_is_not(world):
    version, answer = speak_http2(world, world.silo, ssl.TLSVersion.TLSv1_3)
    assert version == "TLSv1.3"
    assert b"cloister://heart-study/silo/hospital-a" in answer
    version, answer = speak_http2(world, world.silo, ssl.TLSVersion.TLSv1_2)
    assert version == "TLSv1.2"
    assert b"is not over TLS 1.3" in answer
    assert b"cloister://heart-study" not in answer


def test_a_port_in_use_is_named(world):
    second = new_server([StatusInterceptor()], workers=1)
    port = split_address(world.address)[1]
    with pytest.raises(ConfigError, match=rf"{world.address}: address already in use. Stop the program .* {port}"):
        bind(second, world.address, server_credentials(world.hub, NOW))
    with pytest.raises(ConfigError, match="the host name is unknown here"):
        bind(second, "no-such-host.invalid:0", server_credentials(world.hub, NOW))
    for address in ("localhost", "https://x:1", "x:99999", ":1"):
        with pytest.raises(ConfigError, match="is not host:port"):
            split_address(address)


def test_a_server_that_is_down_is_unavailable(world):
    world.server.stop(0).wait()
    with pytest.raises(Unavailable, match="cannot be reached"):
        world.call()


def test_a_deadline_is_unavailable(world):
    with world.channel() as channel, pytest.raises(Unavailable, match="before the deadline"), peer_call("call"):
        channel.unary_unary("/t.Service/One")(b"hello", timeout=0)


def test_messages_have_a_limit(world):
    """Requests of 1 MiB; answers of 4 MiB, for a whole round's transcript is one."""
    assert len(world.call(bytes(1 << 20))) == 1 << 20
    with pytest.raises(Unavailable, match="RESOURCE_EXHAUSTED"):
        world.call(bytes(2 << 20))
    own = world.silo.tls()
    credentials = grpc.ssl_channel_credentials(world.ca.ca_pem, own.key_pem, own.certificate_pem)
    with (
        grpc.secure_channel(world.address, credentials) as careless,  # this client sends what it likes
        pytest.raises(Unavailable, match="RESOURCE_EXHAUSTED"),
        peer_call("call"),
    ):
        careless.unary_unary("/t.Service/One")(bytes(2 << 20), timeout=10)

    def echoed(mebibytes):
        with world.channel() as channel, peer_call("call"):
            return channel.stream_unary("/t.Service/Upload")(iter([bytes(1 << 20)] * mebibytes), timeout=10)

    assert len(echoed(4)) == 4 << 20
    with pytest.raises(Unavailable, match="RESOURCE_EXHAUSTED"):
        echoed(5)


def test_the_enrolment_port_asks_for_no_certificate_but_proves_itself(world, tmp_path):
    server = new_server([StatusInterceptor(), Tls13Interceptor()], workers=1)
    server.add_generic_rpc_handlers((SERVICE,))
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0', enrolment_credentials(world.hub, NOW))}"
    server.start()
    with open_enrolment_channel(address, world.ca.ca_pem) as channel, peer_call("enrol"):
        assert channel.unary_unary("/t.Service/One")(b"hello", timeout=10) == b"hello"
    with (
        open_enrolment_channel(address, world.ca.ca_pem) as channel,
        pytest.raises(Unavailable, match="no certificate"),
        peer_call("e"),
    ):
        channel.unary_unary("/t.Service/One")(b"whoami", timeout=10)
    other = make_ca(tmp_path / "other", NOW)
    with (
        open_enrolment_channel(address, other.ca_pem) as channel,
        pytest.raises(ConfigError, match="of our"),
        peer_call("e"),
    ):
        channel.unary_unary("/t.Service/One")(b"hello", timeout=10)
    server.stop(0).wait()
