"""pronk serve as a program: the line that it prints, its mistakes, and how it stops."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from pronk.cli import main


@dataclass
class Program:
    """A server in a process of its own, and what it said when it was ready. Connections end with `stack`."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    stack: contextlib.ExitStack

    def ask(self, path: str, content: object = None, key: str | None = None) -> HTTPResponse:
        address = urlsplit(self.said["url"])
        connection = HTTPConnection(address.hostname or "", address.port, timeout=120)
        self.stack.callback(connection.close)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        body = None if content is None else json.dumps(content)
        connection.request("GET" if body is None else "POST", path, body, headers)
        return self.stack.enter_context(connection.getresponse())

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def errors(self) -> str:
        """All of standard error, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[Program]:
    command = [sys.executable, "-m", "pronk", "serve", "--port", "0", "--json", *arguments]
    with (
        contextlib.ExitStack() as stack,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            yield Program(process, json.loads(line), stack)
        finally:
            process.kill()


def streamed(response: HTTPResponse) -> list[str]:
    return [line[6:].decode().strip() for line in response if line.startswith(b"data: ")]


def test_sigterm_under_load_finishes_the_answers_and_exits_with_0() -> None:
    with program("cria") as server:
        assert server.said["models"] == ["cria"]
        content = {"prompt": "One", "max_tokens": 300, "ignore_eos": True, "stream": True}
        answers = [server.ask("/v1/completions", content) for _ in range(3)]
        assert all(answer.readline().startswith(b"data: ") for answer in answers)
        server.stop()
        for answer in answers:
            lines = streamed(answer)
            assert lines[-1] == "[DONE]"
            assert json.loads(lines[-2])["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.errors()


def test_a_second_signal_ends_the_process_at_once() -> None:
    with program("cria", "--drain-timeout", "1000") as server:
        content = {"prompt": "One", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 16}
        assert server.ask("/v1/completions", content).readline().startswith(b"data: ")
        server.stop()
        while server.ask("/health/ready").status != 503:  # the first one has arrived
            pass
        server.stop()
        assert server.process.wait(60) == 128 + signal.SIGTERM


def test_ctrl_c_of_an_idle_server() -> None:
    with program() as server:
        assert server.ask("/health/live").status == 200
        server.stop(signal.SIGINT)
        assert server.process.wait(60) == 130


def test_several_models_by_name_with_a_key_and_logs_in_json() -> None:
    arguments = ("small=random:tiny", "cria", "--api-key", "k", "--log-format", "json", "--max-n", "2")
    with program(*arguments) as server:
        assert server.said["models"] == ["small", "cria"]
        assert server.ask("/v1/models").status == 401
        cards = json.load(server.ask("/v1/models", key="k"))["data"]
        assert [card["id"] for card in cards] == ["small", "cria"]
        for name in ("small", "cria"):
            content = {"model": name, "prompt": [1, 2, 3], "max_tokens": 2}
            assert json.load(server.ask("/v1/completions", content, "k"))["model"] == name
        assert json.load(server.ask("/v1/completions", {"prompt": [1], "n": 3}, "k"))["error"]["param"] == "n"
        server.stop()
        lines = [json.loads(line) for line in server.errors().splitlines()]
        assert [line["status"] for line in lines if line["message"] == "request"] == [401, 200, 200, 200, 400]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no/such/model",), "no/such/model"),
        (("cria", "cria"), "NAME=MODEL"),
        (("=cria",), "NAME=MODEL"),
        (("--host", "no.such.host.invalid"), "no.such.host.invalid"),
        (("--port", "70000"), "port 70000"),
        (("--api-key", "two words"), "API key"),
        (("--api-key-file", "no-such-file"), "no-such-file"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = () if "--port" in arguments else ("--port", "0")
    assert main(["serve", *port, *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "cria", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error
    assert "--port" in error
    assert error.count("\n") == 1
