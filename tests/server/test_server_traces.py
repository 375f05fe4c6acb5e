"""OpenTelemetry traces, as a collector on loopback gets them from the real exporter."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import pronk
from pronk.cli import main
from pronk.errors import RequestError
from pronk.server import logs
from pronk.server.traces import exported
from support.gated_model import gated
from support.serving import Running, serving

SECRET = "a very unusual aardvark"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.paths.append(self.path)
                collector.bodies.append(
                    gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def messages(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    def spans(self) -> list[Span]:
        return [
            span for m in self.messages() for r in m.resource_spans for scope in r.scope_spans for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    there = Collector()
    yield there
    there.server.shutdown()
    there.server.server_close()


@contextlib.contextmanager
def traced(url: str) -> Iterator[Running]:
    """The last spans have been sent when it is left."""
    with exported(url) as traces, pronk.load("cria") as llama, serving(llama, traces=traces) as running:
        yield running


def facts(span: Span) -> dict[str, Any]:
    def value(given: Any) -> Any:
        kind = given.WhichOneof("value")
        return [value(v) for v in given.array_value.values] if kind == "array_value" else getattr(given, kind)

    return {one.key: value(one.value) for one in span.attributes}


def asked(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, "temperature": 0, **more}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_within_the_client_s_and_the_engine_s_work_one_within_it(
    collector: Collector, stream: bool
) -> None:
    with traced(collector.url) as server:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
        answer = server.post("/v1/chat/completions", asked(n=2, stream=stream), headers)
        assert answer.status == 200
    assert set(collector.paths) == {"/v1/traces"}
    (http,) = [span for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER]
    engine = [span for span in collector.spans() if span is not http and span.kind != Span.SPAN_KIND_SERVER]
    assert http.name == "POST /v1/chat/completions"
    assert (http.trace_id.hex(), http.parent_span_id.hex()) == (TRACE, PARENT)
    said = facts(http)
    assert (said["http.response.status_code"], said["http.route"]) == (200, "/v1/chat/completions")
    assert (said["pronk.request_id"], said["client.address"]) == ("mine", "127.0.0.1")
    assert len(engine) == 2
    for span in engine:
        assert span.name == "text_completion cria"
        assert (span.trace_id, span.parent_span_id) == (http.trace_id, http.span_id)
        said = facts(span)
        assert said["gen_ai.request.model"] == "cria"
        assert (said["gen_ai.request.max_tokens"], said["gen_ai.request.temperature"]) == (5, 0)
        assert (said["gen_ai.usage.output_tokens"], said["gen_ai.response.finish_reasons"]) == (5, ["length"])
        assert said["gen_ai.usage.input_tokens"] > 5
        (first,) = span.events
        assert first.name == "first token"
        assert span.start_time_unix_nano < first.time_unix_nano <= span.end_time_unix_nano <= http.end_time_unix_nano
        assert span.start_time_unix_nano >= http.start_time_unix_nano


def test_spans_have_no_prompt_and_no_answer_and_say_whose_they_are(collector: Collector) -> None:
    with traced(collector.url) as server:
        text = server.post("/v1/chat/completions", asked(max_tokens=30)).json["choices"][0]["message"]["content"]
        server.post("/generate", {"inputs": SECRET, "parameters": {"max_new_tokens": 4}})
    for body in collector.bodies:
        assert SECRET.encode() not in body
        assert text.encode() not in body
    for message in collector.messages():
        said = {one.key: one.value.string_value for one in message.resource_spans[0].resource.attributes}
        assert (said["service.name"], said["service.version"]) == ("pronk", pronk.__version__)


def test_refusals_are_spans_without_an_engine_s_and_health_is_none(collector: Collector) -> None:
    with traced(collector.url) as server:
        assert server.post("/v1/completions", {"prompt": "a", "temperature": -1}).status == 400
        assert server.get("/nowhere/at/all").status == 404
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert server.get(path).status == 200
    said = {span.name: (facts(span)["http.response.status_code"], span.status.code) for span in collector.spans()}
    assert said == {"POST /v1/completions": (400, 0), "GET other": (404, 0)}


def test_a_request_that_its_client_left_ends_as_cancelled(collector: Collector) -> None:
    with traced(collector.url) as server:
        body = b'{"prompt": "One", "max_tokens": 900, "ignore_eos": true}'
        with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as client:
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                + str(len(body)).encode() + b"\r\n\r\n" + body
            )  # fmt: skip
            while not server.state.model(None).in_flight:
                pass
        while server.state.model(None).in_flight:
            pass
    (engine,) = [span for span in collector.spans() if span.name.startswith("text_completion")]
    (http,) = [span for span in collector.spans() if span.name.startswith("POST")]
    assert facts(engine)["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert facts(http)["http.response.status_code"] == 499


def test_a_failing_step_is_an_error(collector: Collector) -> None:
    with traced(collector.url) as server, gated(server.state.model(None).llama) as gate:
        gate.error = MemoryError("no more")
        gate.open.set()
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 500
    for span in collector.spans():
        assert span.status.code == 2
    assert {facts(span)["error.type"] for span in collector.spans()} == {"500", "MemoryError"}


def test_a_collector_that_is_away_costs_its_spans_alone() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        port = gone.server_port
    with traced(f"http://127.0.0.1:{port}") as server:
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200


@pytest.mark.parametrize("text", ["", "localhost:4318", "ftp://a", "http://", "http://[a", "http://a:b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no address; write one such as"), exported(text):
        pass


def test_without_opentelemetry_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert main(["serve", "cria", "--port", "0", "--otlp-endpoint", "http://127.0.0.1:4318"]) == 2
    assert "pip install 'pronk[otel]'" in capsys.readouterr().err


def test_a_server_without_a_collector_never_loads_the_exporter() -> None:
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport pronk\nfrom support.serving import serving\n"
        "with pronk.load('cria') as llama, serving(llama) as server:\n"
        "    assert server.post('/v1/completions', {'prompt': 'a', 'max_tokens': 2}).status == 200\n"
        "assert not any(name.startswith('opentelemetry.sdk') for name in sys.modules)\n"
    )
    tests = importlib.import_module("support").__path__[0].rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code, tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_exporter_says_is_a_line_of_the_log() -> None:
    names = ("pronk.server", "uvicorn.error", "opentelemetry")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    stream = io.StringIO()
    try:
        logs.set_up(True, stream)
        logging.getLogger("opentelemetry.exporter").warning("away")
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers[:], logging.getLogger(name).propagate = handlers, propagate
    assert json.loads(stream.getvalue())["message"] == "away"
