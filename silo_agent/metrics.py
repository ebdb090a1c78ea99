"""Prometheus metrics of the agent, on this machine only: what status.json says, as numbers."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from runtime.metrics import start_metrics
from silo_agent.status import StatusBoard


def silo_metrics(board: StatusBoard, port: int) -> Callable[[], None]:
    """Serve metrics on 127.0.0.1:port unless it is 0; returns what stops it. Raises ConfigError for a taken port."""
    if not port:
        return lambda: None
    registry = CollectorRegistry()
    gauges: dict[str, Callable[[], float]] = {
        "connected": lambda: float(board.status.connected),
        "round": lambda: float(board.status.round),
        "epsilon_spent": lambda: board.status.epsilon_spent,
        "epsilon_left": lambda: board.status.epsilon_left,
        "sent_bytes": lambda: float(board.status.bytes_sent),
    }
    for name, read in gauges.items():
        Gauge(f"cloister_silo_{name}", f"status.json's {name}", registry=registry).set_function(read)
    return start_metrics(port, registry)
