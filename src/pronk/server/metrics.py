"""What Prometheus reads at /metrics. A registry of our own: a program that embeds the server keeps its own apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pronk.engine.request import Output

if TYPE_CHECKING:
    from pronk.server.state import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_GAUGES = {
    "waiting": "Requests that wait to run",
    "running": "Requests in the batch",
    "pages": "Pages of the key/value cache",
    "pages_used": "Pages that requests hold",
    "pages_cached": "Pages kept for sharing, free to take",
}
_COUNTERS = {
    "preemptions": "Requests that gave their pages up and were computed again",
    "steps": "Forward passes",
    "failed_steps": "Forward passes that failed",
    "prompt_tokens": "Tokens of prompts",
    "completion_tokens": "Tokens generated",
    "cached_tokens": "Tokens of prompts found in the prefix cache",
}


class Metrics:
    """Counters of this server. The engines' own are read when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pronk_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"pronk_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("http_requests", "HTTP requests by route and status", "route", "method", "status")
        self.seconds = histogram("http_request_seconds", "Until the last byte of the answer", _SECONDS, "route")
        self.refused = counter("refused", "Requests turned away because the queue was full")
        self.ended = counter("requests_ended", "Requests to an engine by how they ended", "model", "reason")
        self.first_token = histogram("first_token_seconds", "From arrival to the first token", _SECONDS, "model")
        self.per_token = histogram("per_token_seconds", "Between tokens, the mean of an answer", _PER_TOKEN, "model")

    def watch(self, models: Mapping[str, ServedModel]) -> None:
        self.registry.register(_Engines(models))

    def output(self, model: str, output: Output) -> None:
        """Called for each output of each request."""
        if not output.finish_reason:
            return
        self.ended.labels(model, output.finish_reason).inc()
        if output.usage and output.timings and output.usage.completion_tokens:
            self.first_token.labels(model).observe(output.timings.first_token_seconds)
            if output.usage.completion_tokens > 1:
                mean = output.timings.decode_seconds / (output.usage.completion_tokens - 1)
                self.per_token.labels(model).observe(mean)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class _Engines(Collector):
    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        gauges = {name: GaugeMetricFamily(f"pronk_{name}", text, labels=["model"]) for name, text in _GAUGES.items()}
        counters = {n: CounterMetricFamily(f"pronk_{n}", text, labels=["model"]) for n, text in _COUNTERS.items()}
        for name, model in self._models.items():
            stats = model.service.stats()
            for key, gauge in gauges.items():
                gauge.add_metric([name], getattr(stats, key))
            for key, counter in counters.items():
                counter.add_metric([name], getattr(stats, key))
        yield from gauges.values()
        yield from counters.values()
