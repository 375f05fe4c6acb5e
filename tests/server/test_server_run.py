"""Requests under way: clients that leave, queues that are full, engines that fail, a server that stops.

Steps of the model wait at a gate that the tests open, so nothing here depends on how fast anything is.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

import pronk
from pronk.engine import grammar
from pronk.engine.request import Output
from pronk.server.openai import sse
from pronk.server.settings import ServerSettings
from support.gated_model import Gate, gated
from support.serving import Answer, Running, serving

WAIT = 60.0  # seconds at most, for what comes at once


@pytest.fixture
def one() -> Iterator[tuple[Running, Gate]]:
    """A server that runs one request at a time and lets two wait; its gate is closed."""
    with (
        pronk.load("cria", max_sequences=1) as llama,
        serving(llama, settings=ServerSettings(max_queue=2, drain_seconds=WAIT)) as server,
        gated(llama) as gate,
    ):
        yield server, gate


def body(**more: object) -> dict[str, object]:
    return {"prompt": "One two three", "max_tokens": 400, "ignore_eos": True, **more}


class Ends:
    """Takes note of how requests end, and of cancellations."""

    def __init__(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended, self.cancelled = threading.Event(), threading.Event()
        self.outputs: list[Output] = []
        metrics, service = server.state.metrics, server.state.models["cria"].service
        count, cancel = metrics.output, service.cancel

        def output(model: str, output: Output) -> None:
            count(model, output)
            if output.finish_reason:
                self.outputs.append(output)
                self.ended.set()

        def cancelling(ids: object) -> None:
            cancel(ids)  # type: ignore[arg-type]
            self.cancelled.set()

        monkeypatch.setattr(metrics, "output", output)
        monkeypatch.setattr(service, "cancel", cancelling)


def send(server: Running, path: str, content: object) -> socket.socket:
    """A request on a raw socket; the answer is not read."""
    address = urlsplit(server.url)
    data = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    sock = socket.create_connection((address.hostname, address.port), timeout=WAIT)
    sock.sendall(head.encode() + data)
    return sock


# --- clients that leave ---


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_a_client_that_leaves_frees_its_pages_within_a_step(
    one: tuple[Running, Gate], monkeypatch: pytest.MonkeyPatch, path: str, stream: bool
) -> None:
    server, gate = one
    ends = Ends(server, monkeypatch)
    message = [{"role": "user", "content": "One two three"}]
    content = {
        "/v1/completions": body(),
        "/v1/chat/completions": {"messages": message, "ignore_eos": True},
        "/v1/responses": {"input": "One two three"},
    }[path]
    sock = send(server, path, {**content, "stream": stream})
    assert gate.stepping.wait(WAIT)  # the prompt is being read
    sock.close()
    assert ends.cancelled.wait(WAIT)
    gate.open.set()
    assert ends.ended.wait(WAIT)
    assert [output.finish_reason for output in ends.outputs] == ["cancelled"]
    assert gate.steps == 1
    assert server.state.models["cria"].service.stats().pages_used == 0


def test_a_client_that_leaves_in_the_middle_of_its_text(
    one: tuple[Running, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, gate = one
    ends = Ends(server, monkeypatch)
    gate.open.set()
    with send(server, "/v1/completions", body(max_tokens=900, stream=True)) as sock:
        received = b""
        while received.count(b"data: ") < 3:
            received += sock.recv(1000)
    assert ends.ended.wait(WAIT)
    assert ends.outputs[0].finish_reason == "cancelled"
    assert server.state.models["cria"].service.stats().pages_used == 0


def test_all_answers_of_a_request_end_with_its_client(
    one: tuple[Running, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, gate = one
    ends = Ends(server, monkeypatch)
    sock = send(server, "/v1/completions", body(n=3))
    assert gate.stepping.wait(WAIT)
    sock.close()
    assert ends.cancelled.wait(WAIT)
    gate.open.set()
    for _ in range(3):
        assert ends.ended.wait(WAIT)
    assert server.post("/v1/completions", body(max_tokens=1)).status == 200  # there is room again
    assert sorted(str(output.finish_reason) for output in ends.outputs) == ["cancelled"] * 3 + ["length"]


def test_a_stream_shows_that_it_lives_while_a_long_prompt_is_read(
    one: tuple[Running, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, gate = one
    monkeypatch.setattr(sse, "_QUIET_SECONDS", 0.05)
    with send(server, "/v1/completions", body(max_tokens=1, stream=True)) as sock:
        received = b""
        while b"\n: still at it\n\n" not in received:
            assert b"data: " not in received
            received += sock.recv(1000)
        gate.open.set()
        while b"[DONE]" not in received:
            received += sock.recv(1000)


# --- queues ---


def test_overload_is_answered_with_429_at_once_and_no_other_way(one: tuple[Running, Gate]) -> None:
    server, gate = one
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.post, "/v1/completions", body(max_tokens=2)) for _ in range(8)]
        refused = _first(asked, 5)  # while the gate is closed, so nobody else can have been answered
        assert [answer.status for answer in refused] == [429] * 5
        assert all(answer.error["code"] == "queue_full" for answer in refused)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert server.get("/health/ready").status == 200  # busy is not broken
        assert server.post("/v1/completions", b"{ no JSON").status == 429  # before the body is read as anything
        gate.open.set()
        assert sorted(future.result(WAIT).status for future in asked) == [200] * 3 + [429] * 5


def _first(futures: list[Future[Answer]], count: int) -> list[Answer]:
    done = threading.Semaphore(0)
    for future in futures:
        future.add_done_callback(lambda _: done.release())
    for _ in range(count):
        assert done.acquire(timeout=WAIT)
    return [future.result() for future in futures if future.done()]


def test_a_large_request_runs_where_nothing_else_does(one: tuple[Running, Gate]) -> None:
    server, gate = one
    gate.open.set()
    answer = server.post("/v1/completions", body(n=8, max_tokens=1))
    assert answer.status == 200
    assert len(answer.json["choices"]) == 8


def test_greedy_answers_are_the_same_when_pages_run_out() -> None:
    """Eight answers of five pages at once, in a cache of sixteen pages."""
    asked = [body(prompt=f"{name} has a cat.", max_tokens=140, temperature=0) for name in "ABCDEFGH"]

    def text(content: dict[str, object]) -> str:
        return str(server.post("/v1/completions", content).json["choices"][0]["text"])

    with pronk.load("cria", context=256, pages=16) as llama, serving(llama) as server:
        alone = [text(content) for content in asked]
        model = server.state.model(None)
        assert model.service.stats().preemptions == 0
        with gated(llama) as gate, ThreadPoolExecutor(len(asked)) as pool:
            together = [pool.submit(text, content) for content in asked]
            assert gate.stepping.wait(WAIT)
            while model.in_flight < len(asked):
                time.sleep(0.01)
            gate.open.set()
            assert [future.result(WAIT) for future in together] == alone
        assert model.service.stats().preemptions > 0


def test_the_vocabulary_for_grammars_is_read_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with pronk.load("cria") as llama, serving(llama) as server:
        monkeypatch.setattr(grammar, "_vocabulary", lambda *_: pytest.fail("it is read beside answers that run"))
        asked = body(max_tokens=4, ignore_eos=False, response_format={"type": "json_object"})
        assert server.post("/v1/completions", asked).status == 200


# --- engines that fail ---


@pytest.mark.parametrize("stream", [False, True])
def test_a_step_that_fails_is_this_request_s_error_alone(one: tuple[Running, Gate], stream: bool) -> None:
    server, gate = one
    gate.error = MemoryError("a secret")
    gate.open.set()
    answer = server.post("/v1/completions", body(stream=stream))
    error = answer.events[-1]["error"] if stream else answer.error
    assert (answer.status, error["type"]) == (200 if stream else 500, "server_error")
    assert b"secret" not in answer.body
    gate.error = None
    assert server.post("/v1/completions", body(max_tokens=1)).status == 200
    assert server.get("/health/ready").status == 200


class Death(BaseException):
    """What ends the engine's thread."""


def test_an_engine_that_dies_is_said_to_those_who_wait_and_to_those_who_look(one: tuple[Running, Gate]) -> None:
    server, gate = one
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.post, "/v1/completions", body(stream=stream)) for stream in (False, True)]
        assert gate.stepping.wait(WAIT)
        gate.error = Death()
        gate.open.set()
        whole, streamed = (future.result(WAIT) for future in asked)
    assert whole.status == 503
    assert whole.error["code"] == "engine_stopped"
    if streamed.status == 200:  # it had been let in before
        assert streamed.events[-1]["error"]["code"] == "engine_stopped"
    else:
        assert streamed.status == 503
    ready = server.get("/health/ready")
    assert (ready.status, ready.error["code"]) == (503, "not_ready")
    assert "engine" in ready.error["message"]
    assert server.get("/health/live").status == 200
    assert server.post("/v1/completions", body()).status == 503


def test_a_step_that_takes_too_long_makes_the_server_unready(
    one: tuple[Running, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = one
    service = type(server.state.models["cria"].service)
    monkeypatch.setattr(service, "stalled_seconds", property(lambda _: 1.9))
    assert server.get("/health/ready").status == 200
    monkeypatch.setattr(service, "stalled_seconds", property(lambda _: 2.1))
    answer = server.get("/health/ready")
    assert answer.status == 503
    assert "2 s" in answer.error["message"]


def test_a_deadline_ends_an_answer_with_what_there_is() -> None:
    with (
        pronk.load("cria") as llama,
        serving(llama, settings=ServerSettings(request_seconds=0.0)) as server,
    ):
        choice = server.post("/v1/completions", body()).json["choices"][0]
    assert (choice["finish_reason"], choice["ended_by"], choice["text"]) == ("length", "deadline", "")


# --- stopping ---


def test_a_server_that_stops_finishes_what_it_took_and_takes_no_more(one: tuple[Running, Gate]) -> None:
    server, gate = one
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/v1/completions", body(max_tokens=3))
        assert gate.stepping.wait(WAIT)
        server.server.stop()
        ready, late = server.get("/health/ready"), server.post("/v1/completions", body())
        assert (ready.status, late.status) == (503, 503)
        assert late.error["code"] == "draining"
        assert int(late.headers["retry-after"]) > 0
        assert server.get("/health/live").status == 200
        gate.open.set()
        answer = asked.result(WAIT)
    assert answer.status == 200
    assert answer.json["usage"]["completion_tokens"] == 3


def test_answers_that_outlast_the_patience_end_with_what_there_is() -> None:
    settings = ServerSettings(drain_seconds=0.0)
    with pronk.load("cria") as llama, serving(llama, settings=settings) as server, gated(llama) as gate:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.post, "/v1/completions", body())
            assert gate.stepping.wait(WAIT)
            server.server.stop()
            gate.open.set()
            answer = asked.result(WAIT)
        assert answer.status == 200
        assert answer.json["choices"][0]["ended_by"] == "cancelled"
