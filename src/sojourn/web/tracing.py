"""Tracing of requests: OpenTelemetry where it is installed (extra ``otel``) and wanted, otherwise nothing.

Knows one span per request; whatever runs below it joins by OpenTelemetry's own context.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol, final

from sojourn.errors import ConfigError, Problem


class Span(Protocol):
    """One request on its way."""

    def set(self, name: str, value: str | int) -> None:
        """Note something about it."""

    def failed(self, name: str) -> None:
        """Note that it ended by a mistake of ours, called so."""


class Tracer(Protocol):
    """Begins spans."""

    def request(self, headers: Mapping[str, str]) -> Any:
        """Return a context manager whose target is the :class:`Span` of a request; ``headers`` may name its parent."""


@final
class _NoSpan:
    def set(self, name: str, value: str | int) -> None:
        """Forget it."""

    def failed(self, name: str) -> None:
        """Forget it."""


@final
class NoTracer:
    """Traces nothing, at the cost of a call."""

    _span = _NoSpan()

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:  # noqa: ARG002 - as the protocol has it
        """Return a span that forgets everything."""
        yield self._span


NO_TRACER: Final = NoTracer()


@final
class _OtelSpan:
    def __init__(self, span: Any, trace: Any) -> None:
        self._span = span
        self._trace = trace

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute; the route is the span's name too."""
        self._span.set_attribute(name, value)
        if name == "http.route":
            self._span.update_name(str(value))

    def failed(self, name: str) -> None:
        """Set the status; an exception's text may hold secrets and stays here."""
        self._span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, name))


@final
class OtelTracer:
    """Spans by OpenTelemetry's API; where they go is what the process's SDK is configured for (``OTEL_*``).

    Raises: ConfigError where OpenTelemetry is not installed.
    """

    def __init__(self, gateway: str) -> None:
        try:
            self._trace = importlib.import_module("opentelemetry.trace")
            self._propagate = importlib.import_module("opentelemetry.propagate")
        except ImportError:
            found = "OpenTelemetry is not installed"
            wanted = "pip install 'sojourn[otel]'"
            raise ConfigError([Problem("(start)", 0, f"{gateway}.http", "tracing", found, wanted)]) from None
        self._tracer = self._trace.get_tracer(f"sojourn.{gateway}")

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:
        """Begin a span under the parent that ``traceparent`` names."""
        parent = self._propagate.extract({name.lower(): value for name, value in headers.items()})
        with self._tracer.start_as_current_span(
            "http request",
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _OtelSpan(span, self._trace)
