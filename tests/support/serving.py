"""A real server on loopback, in a thread of the test's process, and what tests ask it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from pronk.api import Llama
from pronk.server.lifecycle import Server, bind, url
from pronk.server.settings import ServerSettings
from pronk.server.state import ServerState, with_adapters
from pronk.server.traces import Traces


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Of an answer in OpenAI's form."""
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events, parsed, without the last [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


@dataclass(frozen=True)
class Running:
    url: str
    state: ServerState
    server: Server

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """On a connection of its own. A dictionary, list or text is sent as JSON, an iterator of bytes in chunks."""
        address = urlsplit(self.url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=120)
        sent = dict(headers or {})
        if isinstance(body, (dict, list, str)):
            body = json.dumps(body).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)


@contextlib.contextmanager
def serving(
    *models: Llama, settings: ServerSettings | None = None, traces: Traces | None = None, **names: Llama
) -> Iterator[Running]:
    """Serve models, by their own names or the keywords', and each with its adapters, until the block ends. They are not
    closed."""
    named = {**{llama.name: llama for llama in models}, **names}
    served = {model.name: model for name, llama in named.items() for model in with_adapters(name, llama)}
    state = ServerState(settings or ServerSettings(drain_seconds=5), served, traces=traces or Traces())
    sock = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(state, ready.set)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    assert ready.wait(60), "the server did not start"
    try:
        yield Running(url(sock), state, server)
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"
