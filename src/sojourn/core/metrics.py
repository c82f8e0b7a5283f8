"""Metrics: the view of counters that Prometheus scrapes.

Hot paths add to plain integers; this file turns them into metrics when somebody asks, those of several processes into
one view. Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
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


class Family(msgspec.Struct, frozen=True):
    """One metric with all its samples, as processes tell it one another.

    Shape: a sample is its name, its labels and its value; ``kind`` is Prometheus' word for the type.
    """

    name: str
    help: str
    kind: str
    samples: tuple[tuple[str, dict[str, str], float], ...]


class _Key(NamedTuple):
    """What tells one sample from all others."""

    family: str
    kind: str
    name: str
    labels: tuple[tuple[str, str], ...]


_COUNTER: Final = "counter"
_OUR_PREFIX: Final = "sojourn_"


def figures(server: Server) -> list[Family]:
    """Return all metrics of this process."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(server))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple((sample.name, sample.labels, sample.value) for sample in metric.samples),
        )
        for metric in registry.collect()
    ]


def text_of(families: Iterable[Family]) -> bytes:
    """Return metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Given(families))
    return generate_latest(registry)


def metrics_text(server: Server) -> bytes:
    """Return all metrics in Prometheus' text format, those of the process included."""
    return text_of(figures(server))


class _Given:
    """Metrics that are there already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for sample in family.samples:
                metric.add_sample(*sample)
            yield metric


class Together:
    """The metrics of several processes as those of one: what is ours is summed, what is a process' own is labelled.

    Life: as long as the process that is scraped. Always true: a sum of counters does not go down while any process
    tells of it, whichever process is gone, answers late, or has forgotten a part of it. What one has counted between
    the last scrape and its end is lost.
    """

    def __init__(self) -> None:
        self._last: dict[int, dict[_Key, float]] = {}
        """What each process told last of its counters, by its PID."""
        self._past: dict[_Key, float] = {}
        """What was counted by processes that are gone, and in parts that were forgotten."""

    def text(
        self, told: Mapping[int, tuple[int, Sequence[Family]]], is_alive: Callable[[int], bool]
    ) -> bytes:
        """Return the metrics of all in Prometheus' text format.

        Args:
            told: by PID, the worker's index and its metrics.
            is_alive: says whether a PID that did not answer is there.
        """
        for pid in self._last.keys() - told.keys():
            if not is_alive(pid):
                self._forget(self._last.pop(pid), {})
        gauges: list[tuple[_Key, float]] = []
        for pid, (_, families) in told.items():
            samples = [sample for family in families if _is_ours(family) for sample in _samples(family)]
            counted = {key: value for key, value in samples if key.kind == _COUNTER}
            gauges += [sample for sample in samples if sample[0].kind != _COUNTER]
            self._forget(self._last.get(pid, {}), counted)
            self._last[pid] = counted
        counters = [sample for counted in self._last.values() for sample in counted.items()]
        known = {key for key, _ in counters}
        self._past = {key: value for key, value in self._past.items() if key in known}
        sums: dict[_Key, float] = {}
        for key, value in (*self._past.items(), *counters, *gauges):
            sums[key] = sums.get(key, 0.0) + value
        return text_of([*_summed(told.values(), sums), *_labelled(told.values()), _answered(len(told))])

    def _forget(self, last: Mapping[_Key, float], counted: Mapping[_Key, float]) -> None:
        """Keep what a process had counted and does not tell any more."""
        for key, value in last.items():
            if counted.get(key, -1.0) < value:
                self._past[key] = self._past.get(key, 0.0) + value


def _is_ours(family: Family) -> bool:
    return family.name.startswith(_OUR_PREFIX)


def _samples(family: Family) -> Iterator[tuple[_Key, float]]:
    for name, labels, value in family.samples:
        yield _Key(family.name, family.kind, name, tuple(labels.items())), value


def _summed(told: Iterable[tuple[int, Sequence[Family]]], sums: Mapping[_Key, float]) -> Iterator[Family]:
    """Yield our own metrics, each once."""
    samples: dict[str, list[tuple[str, dict[str, str], float]]] = {}
    for key, value in sums.items():
        samples.setdefault(key.family, []).append((key.name, dict(key.labels), value))
    ours = {family.name: family for _, families in told for family in families if _is_ours(family)}
    for name, family in ours.items():
        yield msgspec.structs.replace(family, samples=tuple(samples.get(name, ())))


def _labelled(told: Iterable[tuple[int, Sequence[Family]]]) -> Iterator[Family]:
    """Yield the metrics that each process has of its own."""
    found: dict[str, Family] = {}
    for worker, families in told:
        for family in families:
            if _is_ours(family):
                continue
            samples = tuple(
                (name, {**labels, "worker": str(worker)}, value) for name, labels, value in family.samples
            )
            if family.name in found:
                samples = found[family.name].samples + samples
            found[family.name] = msgspec.structs.replace(family, samples=samples)
    yield from found.values()


def _answered(count: int) -> Family:
    name = "sojourn_workers_answered"
    return Family(name, "Workers whose figures are in this scrape.", "gauge", ((name, {}, float(count)),))
