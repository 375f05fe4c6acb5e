"""OpenTelemetry traces: a span for each HTTP request, and within it one for each request to an engine.

Nothing is imported, and nothing costs, unless an address to send spans to was given. Names are those of OpenTelemetry's
semantic conventions (HTTP spans, and "gen_ai" for models). Never a prompt or an answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

import pronk
from pronk.engine.request import Output, Request
from pronk.errors import RequestError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_PATH = "/v1/traces"  # of OTLP over HTTP, where an address has no path of its own
_EXPORT_SECONDS = 2  # for one message to the collector, and so for the last one at the end
_ASKED = ("max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")


class HttpSpan:
    """Of one HTTP request."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, method: str, route: str, status: int) -> None:
        """`route` as declared, "other" where there is none; the same for a method that is none of HTTP's."""
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.request.method", method)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("http.route", route)
        if status >= 500:
            _fail(self._span, str(status))


class EngineSpan:
    """Of one request to an engine, from its admission to its last output."""

    def __init__(self, span: Span, started: int) -> None:
        self._span = span
        self._started = started  # nanoseconds since 1970

    def ended(self, output: Output) -> None:
        """With the request's last output."""
        if output.finish_reason:
            self._span.set_attribute("gen_ai.response.finish_reasons", [output.finish_reason])
        if usage := output.usage:
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
        if (timings := output.timings) and output.usage and output.usage.completion_tokens:
            first = timings.first_token_seconds
            self._span.set_attribute("pronk.queue_seconds", max(first - timings.prompt_seconds, 0.0))
            self._span.set_attribute("pronk.first_token_seconds", first)
            self._span.set_attribute("pronk.decode_seconds", timings.decode_seconds)
            self._span.add_event("first token", timestamp=self._started + int(first * 1e9))
        if output.error:
            _fail(self._span, type(output.error).__name__)
        self._span.end()

    def abandoned(self) -> None:
        """Its last output never came, or it never came to run."""
        _fail(self._span, "abandoned")
        self._span.end()


def _fail(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


class Traces:
    """Makes spans; without a tracer, none."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @contextlib.contextmanager
    def http(self, scope: Scope, request_id: str) -> Iterator[HttpSpan | None]:
        """The current span of what is done within; a child of the client's, where its traceparent says so."""
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        facts = {"url.path": scope["path"], "url.scheme": scope["scheme"], "pronk.request_id": request_id}
        if scope.get("client"):
            facts["client.address"] = scope["client"][0]
        with self._tracer.start_as_current_span(
            "HTTP", parent, SpanKind.SERVER, facts, record_exception=False, set_status_on_exception=False
        ) as span:
            yield HttpSpan(span)

    def engine(self, model: str, request: Request) -> EngineSpan | None:
        """Within the current span; the caller ends it."""
        if self._tracer is None:
            return None
        facts: dict[str, Any] = {
            "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "pronk", "gen_ai.request.model": model,
            "gen_ai.response.model": model, "gen_ai.response.id": request.id,
        }  # fmt: skip
        for name in _ASKED:
            if (value := getattr(request.params, name)) is not None:
                facts[f"gen_ai.request.{name}"] = value
        started = time.time_ns()
        span = self._tracer.start_span(f"text_completion {model}", attributes=facts, start_time=started)
        return EngineSpan(span, started)


@contextlib.contextmanager
def exported(endpoint: str | None) -> Iterator[Traces]:
    """Traces whose spans go to an OTLP/HTTP collector at `endpoint`, in the background, the last ones on leaving; a
    collector that is away costs its spans and nothing else. Raises RequestError for an address that is none, and where
    OpenTelemetry is not installed."""
    if endpoint is None:
        yield Traces()
        return
    provider = _provider(_address(endpoint))
    try:
        yield Traces(provider.get_tracer("pronk", pronk.__version__))
    finally:
        provider.shutdown()


def _address(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise RequestError(f"--otlp-endpoint {endpoint!r} is no address; write one such as http://127.0.0.1:4318")
    return endpoint if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{_PATH}"


def _provider(address: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise RequestError("traces need OpenTelemetry; pip install 'pronk[otel]'") from None
    # OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and the like are read by the SDK itself.
    resource = Resource.create({"service.name": "pronk", "service.version": pronk.__version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=_EXPORT_SECONDS)))
    return provider
