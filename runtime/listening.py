"""A port whose certificate is renewed: a new gRPC server takes the port over, and the one before ends its calls.

gRPC offers to exchange the certificate inside a running server (`dynamic_ssl_server_credentials`). That is not safe: a
handshake uses, outside of the lock, the object that another handshake's exchange has just freed
(github.com/grpc/grpc/issues/36693, open). Exchanged at every handshake, it killed grpcio 1.85.1 within 6,000 of them;
rare exchanges only make the crash rare. So a server keeps the certificate it started with for life. At each renewal,
once in weeks, nobody listens for a moment: clients dial again, as they do after any interruption.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime

import grpc
import structlog

from certs.wallet import TlsMaterial, Wallet
from privacy.errors import CloisterError, ConfigError
from runtime.channels import bind

LOG = structlog.get_logger("runtime.listening")
DRAIN_S = 600.0  # how long calls may go on under the certificate before; an upload that is cut short is sent again
REBIND_S = 10.0  # how long the operating system may take to give the port back
REBIND_RETRY_S = 0.02

Credentials = Callable[[Wallet, datetime], grpc.ServerCredentials]


class ServerPort:
    """Where servers answer, one after the other. `make` makes one, with its services and not yet on any port.

    To be called from one thread at a time.
    """

    def __init__(self, make: Callable[[], grpc.Server], credentials: Credentials, address: str, wallet: Wallet) -> None:
        self._make = make
        self._credentials = credentials
        self._address = address
        self._wallet = wallet
        self._server: grpc.Server | None = None
        self._shown: TlsMaterial | None = None
        self._leaving: list[tuple[grpc.Server, threading.Event]] = []

    def bind(self, now: datetime) -> int:
        """Take the port, which is returned. Raises ConfigError naming why it cannot, or what is wrong in the wallet."""
        shown, server = self._wallet.tls(), self._make()
        port = bind(server, self._address, self._credentials(self._wallet, now))
        self._address = f"{self._address.rpartition(':')[0]}:{port}"
        self._server, self._shown = server, shown
        return port

    def start(self) -> None:
        """Answer."""
        if self._server is not None:
            self._server.start()

    def renew(self, now: datetime) -> None:
        """If the wallet holds another certificate by now, answer with that one; calls under way have DRAIN_S to end.

        A wallet that cannot be used changes nothing: clients judge whether the old certificate still is good. A port
        that does not come free, since another program was quicker, is logged and tried again by the next call.
        """
        self._leaving = [(server, ended) for server, ended in self._leaving if not ended.is_set()]
        try:
            latest = self._wallet.tls()
            if latest == self._shown:
                return
            credentials = self._credentials(self._wallet, now)
        except CloisterError as error:
            LOG.warning("certificate not used", address=self._address, exc_info=error)
            return
        if self._server is not None:
            self._leaving.append((self._server, self._server.stop(DRAIN_S)))
            self._server = self._shown = None
        try:
            self._server = self._follow_on(credentials)
        except ConfigError:
            LOG.exception("nobody listens", address=self._address)
            return
        self._shown = latest
        LOG.info("new certificate in use", address=self._address, not_after_utc=latest.not_after_utc.isoformat())

    def stop(self, grace_s: float) -> list[threading.Event]:
        """End all calls within `grace_s`; the events are set when that is done."""
        servers = [server for server, _ in self._leaving] + ([self._server] if self._server is not None else [])
        return [server.stop(grace_s) for server in servers]

    def _follow_on(self, credentials: grpc.ServerCredentials) -> grpc.Server:
        """A started server on the port that the one before is giving back. Raises ConfigError when it does not."""
        server, deadline = self._make(), time.monotonic() + REBIND_S
        while True:
            time.sleep(REBIND_RETRY_S)
            try:
                bind(server, self._address, credentials)
            except ConfigError:
                if time.monotonic() >= deadline:
                    raise
            else:
                server.start()
                return server
