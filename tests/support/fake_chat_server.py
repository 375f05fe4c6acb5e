"""A chat server on loopback whose answers a test has written: to see what the page makes of each.

It serves the real page with the real headers. An answer is a list of steps: a text is sent as a piece of the answer,
a dictionary as the delta that it is, HOLD waits until the test calls `release`, DROP cuts the connection, and an
`Ending` closes the answer otherwise than with "stop". A `Refusal` instead of a list is an error before any answer.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse

from pronk.server import static

HOLD = "\0hold"
DROP = "\0drop"


@dataclass(frozen=True)
class Ending:
    reason: str


@dataclass(frozen=True)
class Refusal:
    status: int
    message: str


Step = str | Mapping[str, Any] | Ending
USAGE = {"prompt_tokens": 21, "completion_tokens": 17, "prompt_tokens_details": {"cached_tokens": 16}}
TIMINGS = {"prompt_tokens_per_second": 812.4, "decode_tokens_per_second": 48.2, "first_token_seconds": 0.31}


class FakeChatServer:
    def __init__(self, models: Sequence[str] = ("cria",), key: str | None = None) -> None:
        self.models = list(models)
        self.key = key
        self.requests: list[dict[str, Any]] = []
        self.hung_up = threading.Event()  # a client went away while its answer was held
        self._answers: deque[Sequence[Step] | Refusal] = deque()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def answer(self, *steps: Step) -> None:
        """What the next request gets."""
        self._answers.append(steps)

    def refuse(self, status: int, message: str) -> None:
        self._answers.append(Refusal(status, message))

    def release(self) -> None:
        self._released.set()

    @contextmanager
    def running(self) -> Iterator[FakeChatServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def next_answer(self) -> Sequence[Step] | Refusal:
        return self._answers.popleft() if self._answers else ("All right.",)

    def held(self, connection: socket.socket) -> bool:
        """Waits at a HOLD. False if the client has hung up meanwhile."""
        while not self._released.wait(0.05):
            connection.setblocking(False)
            try:
                gone = connection.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            finally:
                connection.setblocking(True)
            if gone:
                self.hung_up.set()
                return False
        self._released.clear()
        return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Tests say what went wrong."""

            def do_GET(self) -> None:
                if self.path == "/":
                    _send_file(self, static.page())
                elif self.path.startswith(static.ASSETS):
                    try:
                        _send_file(self, static.asset(self.path[len(static.ASSETS) :]))
                    except Exception:
                        self.send_error(404)
                elif self.path == "/v1/models" and _allowed(self, fake.key):
                    _send_json(self, 200, {"object": "list", "data": [{"id": name} for name in fake.models]})
                elif self.path != "/v1/models":
                    self.send_error(404)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not _allowed(self, fake.key):
                    return
                fake.requests.append(body)
                answer = fake.next_answer()
                if isinstance(answer, Refusal):
                    _send_json(self, answer.status, {"error": {"message": answer.message, "type": "test"}})
                else:
                    _stream(self, fake, answer)

        return Handler


def _allowed(handler: BaseHTTPRequestHandler, key: str | None) -> bool:
    if key is None or handler.headers.get("Authorization") == f"Bearer {key}":
        return True
    _send_json(handler, 401, {"error": {"message": "the API key is wrong", "type": "authentication_error"}})
    return False


def _send_json(handler: BaseHTTPRequestHandler, status: int, value: Any) -> None:
    _send(handler, status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _send_file(handler: BaseHTTPRequestHandler, response: Any) -> None:
    content = Path(response.path).read_bytes() if isinstance(response, FileResponse) else response.body
    headers = {k: v for k, v in response.headers.items() if k.lower() != "content-length"}
    _send(handler, 200, headers, content)


def _send(handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], content: bytes) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _stream(handler: BaseHTTPRequestHandler, fake: FakeChatServer, steps: Sequence[Step]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    handler.close_connection = True

    def send(value: Mapping[str, Any]) -> None:
        handler.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        handler.wfile.flush()

    reason = "stop"
    for step in steps:
        if step == HOLD:
            if not fake.held(handler.connection):
                return
        elif step == DROP:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        elif isinstance(step, Ending):
            reason = step.reason
        else:
            send({"choices": [{"delta": {"content": step} if isinstance(step, str) else step}]})
    send({"choices": [{"delta": {}, "finish_reason": reason}]})
    send({"choices": [], "usage": USAGE, "timings": TIMINGS})
    handler.wfile.write(b"data: [DONE]\n\n")
