"""Figures for Prometheus: how many, how long, how much. Nothing about any update."""

from collections.abc import Callable, Iterable

from cloister.wire import JobPhase, RoundPhase
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.rebuild import job_phase
from aggregator.runner import Runner
from runtime.metrics import start_metrics


class AggregatorMetrics(Collector):
    """Reads the runner and the database when asked."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def serve(self, port: int) -> Callable[[], None]:
        """Answer on 127.0.0.1:port; returns what stops it. Raises ConfigError when the port is taken."""
        registry = CollectorRegistry()
        registry.register(self)
        return start_metrics(port, registry)

    def collect(self) -> Iterable[Metric]:
        """One sample of everything."""
        connected = GaugeMetricFamily("cloister_connected_silos", "Silos with an open Follow stream.")
        connected.add_metric([], len(self._runner.presence.connected))
        jobs = GaugeMetricFamily("cloister_jobs", "Jobs by phase.", labels=["phase"])
        rounds = GaugeMetricFamily("cloister_rounds", "Rounds by phase.", labels=["phase"])
        received = GaugeMetricFamily("cloister_update_bytes_received", "Bytes of accepted updates.")
        seconds = GaugeMetricFamily("cloister_aggregation_seconds", "Time spent checking, hashing and adding residues.")
        every = self._runner.all_jobs()
        for phase in JobPhase:
            jobs.add_metric([phase.name], sum(job_phase(live.state) is phase for live in every))
        with self._runner.store.reading() as tx:
            rows = [row for live in every for row in tx.rounds(live.job)]
            received.add_metric([], sum(sum(tx.bytes_by_round(live.job).values()) for live in every))
        for round_phase in RoundPhase:
            rounds.add_metric([round_phase.name], sum(row.phase is round_phase for row in rows))
        seconds.add_metric([], sum(row.aggregation_ns for row in rows) / 1e9)
        return [connected, jobs, rounds, received, seconds]
