"""Metrics: the view of counters that Prometheus scrapes.

Hot paths add to plain integers; this file turns them into metrics when somebody asks. Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sojourn.core.events import EventKind

if TYPE_CHECKING:
    from sojourn.core.server import Server


class ServerCollector:
    """Reads a server's counters at each scrape."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the core, then those of the gateways."""
        server = self._server
        managers = list(server.managers.values())
        for name, help_text, attribute in (
            ("sojourn_connections_opened", "Connections let in.", "connections_opened"),
            (
                "sojourn_connections_refused",
                "Connections refused before their first byte was read.",
                "connections_refused",
            ),
            ("sojourn_sessions_opened", "Sessions opened.", "sessions_opened"),
            ("sojourn_sessions_refused", "Sessions refused on an open connection.", "sessions_refused"),
            ("sojourn_packets_received", "Packets received.", "packets_in"),
            ("sojourn_packets_sent", "Packets sent.", "packets_out"),
            ("sojourn_send_errors", "Messages that could not be sent.", "send_errors"),
        ):
            counter = CounterMetricFamily(name, help_text, labels=["gateway"])
            for manager in managers:
                counter.add_metric([manager.gateway.name], getattr(manager, attribute))
            yield counter
        for name, help_text, attribute in (
            ("sojourn_connections", "Connections open.", "connections"),
            ("sojourn_sessions", "Sessions live.", "session_count"),
            ("sojourn_tasks", "Tasks of sessions that wait.", "task_count"),
        ):
            gauge = GaugeMetricFamily(name, help_text, labels=["gateway"])
            for manager in managers:
                value = getattr(manager, attribute)
                gauge.add_metric([manager.gateway.name], value if isinstance(value, int) else len(value))
            yield gauge
        yield from self._events()
        yield from self._breakers()
        yield from _grouped(row for manager in managers for row in manager.gateway.counters())

    def _events(self) -> Iterator[Metric]:
        events = self._server.events
        counter = CounterMetricFamily("sojourn_events", "What happened, by kind.", labels=["kind"])
        for kind in EventKind.all:
            counter.add_metric([kind.name], kind.count)
        yield counter
        yield CounterMetricFamily("sojourn_events_dropped", "Events that no view saw.", value=events.dropped)
        yield CounterMetricFamily(
            "sojourn_view_errors", "Batches of events that a view could not take.", value=events.view_errors
        )
        offload = self._server.offload.counters()
        for name in ("submitted", "refused", "timed_out", "failed"):
            yield CounterMetricFamily(
                f"sojourn_offload_{name}", "Calls of the offload pool.", value=getattr(offload, name)
            )
        yield GaugeMetricFamily(
            "sojourn_offload_queued", "Calls that wait for a thread.", value=offload.queued
        )

    def _breakers(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily(
            "sojourn_circuit_breaker_state", "0 closed, 1 open, 2 half-open.", labels=["endpoint"]
        )
        for state in self._server.breakers.snapshot():
            gauge.add_metric([state.endpoint], int(state.state))
        yield gauge


def _grouped(rows: Iterable[tuple[str, dict[str, str], float]]) -> Iterator[Metric]:
    """Turn the gateways' rows into metrics; a name that ends with ``_total`` is a counter."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, labels, value in rows:
        family = families.get(name)
        if family is None:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families[name] = kind(name, name.replace("_", " ") + ".", labels=list(labels))
        family.add_metric(list(labels.values()), value)
    yield from families.values()


def metrics_text(server: Server) -> bytes:
    """Return all metrics in Prometheus' text format, those of the process included."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(server))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return generate_latest(registry)
