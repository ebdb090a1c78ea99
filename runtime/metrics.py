"""Prometheus metrics on a port of this machine only."""

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from privacy.errors import ConfigError


def start_metrics(port: int, registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """Serve `registry` on 127.0.0.1:port; returns what stops it. Raises ConfigError when the port is taken."""
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ConfigError(
            f"metrics port {port}",
            error.strerror or type(error).__name__,
            "Set another metrics port in the configuration, or leave it out.",
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
