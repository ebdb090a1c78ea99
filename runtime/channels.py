"""gRPC over mutual TLS: what servers bind and clients dial.

Clients dial out only. A server refused our certificate with nothing but "Socket closed", so a client checks its own
wallet before it dials: the error then names the cause. A renewed certificate is used by a new channel, and by a new
server (runtime.listening).
"""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path

import grpc
from cloister.wire.base import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES

from certs.files import read_file
from certs.names import Role
from certs.verify import load_ca, read_revocations
from certs.wallet import Wallet
from privacy.errors import ConfigError

KEEPALIVE_S = 30
_SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    # One silo's upload may not fill this machine's memory while it waits to be read: fixed, small windows (a message
    # that is being read may always come whole) instead of ones that grow with the line.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
    ("grpc.experimental.tcp_max_read_chunk_size", 64 << 10),
    ("grpc.so_reuseport", 0),  # else a second server would bind the same port and share its connections silently
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 2000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_S * 1000),
]
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
]


def new_server(interceptors: Sequence[grpc.ServerInterceptor], workers: int) -> grpc.Server:
    """A server with our limits. `interceptors` begin with `StatusInterceptor`.

    Calls that find no worker free wait; when as many wait as there are workers, the next are answered
    RESOURCE_EXHAUSTED. (`grpc.max_concurrent_streams` would not do: it counts ended calls that Python still holds.)
    """
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="rpc")
    most = 2 * workers
    return grpc.server(pool, interceptors=list(interceptors), options=_SERVER_OPTIONS, maximum_concurrent_rpcs=most)


def server_credentials(wallet: Wallet, now: datetime) -> grpc.ServerCredentials:
    """For the federation port: callers must show a certificate of the CA. Raises ConfigError for a bad wallet."""
    return _server_credentials(wallet, now, clients=True)


def enrolment_credentials(wallet: Wallet, now: datetime) -> grpc.ServerCredentials:
    """For the enrolment port: the server alone proves itself. Raises ConfigError for a bad wallet."""
    return _server_credentials(wallet, now, clients=False)


def bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Listen on `host:port` (port 0: any free one); returns the port. Raises ConfigError naming why it cannot."""
    host, port = split_address(address)
    try:
        bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise _bind_error(address, host, port) from error
    if not bound:
        raise _bind_error(address, host, port)
    return bound


def open_channel(address: str, wallet: Wallet, now: datetime) -> grpc.Channel:
    """A channel to the federation port, as the wallet's party.

    Raises ConfigError before anything is sent when the address is none, or our own certificate cannot be used now.
    """
    split_address(address)
    wallet.check(now)
    own = wallet.tls()
    credentials = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.certificate_pem)
    return grpc.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)


def open_enrolment_channel(address: str, ca_pem: bytes) -> grpc.Channel:
    """A channel to the enrolment port, which must prove itself with the CA out of the token. Raises ConfigError."""
    split_address(address)
    load_ca(ca_pem)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_pem), options=_CHANNEL_OPTIONS)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535) or "/" in host:
        raise ConfigError(
            f"address {address[:100]!r}", "is not host:port", "Give it like aggregator.example.org:7443, no https://."
        )
    return host.strip("[]"), int(port)


class RevocationFile:
    """The CA's list on this machine, read again when it changes; `PeerInterceptor` asks it for every call.

    Raises ConfigError when it is missing, damaged or not signed by the CA: without it nobody is let in.
    """

    def __init__(self, path: Path, ca_pem: bytes) -> None:
        self._path = path
        self._ca = load_ca(ca_pem)
        self._seen: tuple[int, int, int] | None = None
        self._serials: frozenset[int] = frozenset()

    def __call__(self) -> frozenset[int]:
        """The revoked serial numbers."""
        step = "Copy crl.pem from the CA's folder."
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigError(f"revocation list {self._path}", "is missing", step) from error
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        if state != self._seen:
            self._serials = read_revocations(read_file(self._path, step, 64 << 20), self._ca)
            self._seen = state
        return self._serials


def _server_credentials(wallet: Wallet, now: datetime, *, clients: bool) -> grpc.ServerCredentials:
    wallet.check(now, Role.AGGREGATOR)
    own = wallet.tls()
    callers_ca = own.ca_pem if clients else None
    return grpc.ssl_server_credentials([(own.key_pem, own.certificate_pem)], callers_ca, clients)


def _bind_error(address: str, host: str, port: int) -> ConfigError:
    """Ask the operating system, since gRPC does not say why."""
    reason, step = "cannot be listened on", "Choose another address."
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.bind(target)
    except socket.gaierror:
        reason, step = "the host name is unknown here", "Give an address of this machine, or 0.0.0.0 for all of them."
    except PermissionError:
        reason, step = "this account may not use that port", "Choose a port above 1023."
    except OSError as error:
        reason = error.strerror or reason
        step = f"Stop the program that uses port {port}, or choose another port."
    return ConfigError(f"listening on {address}", reason[:1].lower() + reason[1:], step)
