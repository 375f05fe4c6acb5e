"""An HTTP server on loopback that misbehaves as it is told to: cuts connections, ignores Range, refuses, sends rot.

It also speaks as much of a Hugging Face hub as downloading needs (model info, resolve).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Files:
    """What is served, by path, and how. `cuts` and `statuses` are used up, one a GET of that path."""

    content: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    length: bool = True  # whether Content-Length is sent
    cuts: dict[str, list[int]] = field(default_factory=dict)  # bytes of the body after which the connection is cut
    statuses: dict[str, list[int]] = field(default_factory=dict)  # status to answer with instead of the file
    redirects: dict[str, str] = field(default_factory=dict)
    rotten: set[str] = field(default_factory=set)  # sent with their first byte changed
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    gated: set[str] = field(default_factory=set)  # answered as the hub answers for a licence not accepted
    url: str = ""
    on_request: Callable[[str], None] | None = None

    def ranges_asked(self, path: str) -> list[str | None]:
        return [r for method, p, r in self.seen if p == path and method == "GET"]

    def add_repository(
        self, name: str, files: dict[str, bytes], large: tuple[str, ...] = (".gguf", ".safetensors")
    ) -> None:
        """A repository of the hub's. Files that end in `large` have a sha256, others git's hash."""
        siblings: list[dict[str, Any]] = []
        for path, data in files.items():
            self.content[f"/{name}/resolve/{COMMIT}/{path}"] = data
            sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
            if path.endswith(large):
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        self.content[f"/api/models/{name}"] = json.dumps(info).encode()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Serve until the block ends; `files.url` is the address, without a slash at the end."""

    class Handler(_Handler):
        served = files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    served: Files
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        files, path = self.served, unquote(urlsplit(self.path).path)
        files.seen.append((self.command, path, self.headers.get("Range")))
        if files.on_request:
            files.on_request(path)
        if body and files.statuses.get(path):
            return self._status(files.statuses[path].pop(0))
        if path in files.redirects:
            return self._status(302, {"Location": files.redirects[path]})
        if path in files.gated:
            return self._status(403, {"X-Error-Code": "GatedRepo"})
        data = files.content.get(path)
        if data is None:
            return self._status(404, {"X-Error-Code": "EntryNotFound" if "/resolve/" in path else "RepoNotFound"})
        if path in files.rotten:
            data = bytes([data[0] ^ 255]) + data[1:]
        self._send(path, data, body=body)
        return None

    def _send(self, path: str, data: bytes, *, body: bool) -> None:
        files, asked = self.served, self.headers.get("Range")
        start, status, headers = 0, 200, {}
        if asked and files.ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                return self._status(416, {"Content-Range": f"bytes */{len(data)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        headers |= {"ETag": f'"{git_hash(files.content[path])}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if files.length:
            headers["Content-Length"] = str(len(part))
        else:
            headers["Connection"] = "close"
            self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return None
        cuts = files.cuts.get(path)
        if cuts:
            self.wfile.write(part[: cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return None
        with contextlib.suppress(OSError):  # the client went away
            self.wfile.write(part)
        return None

    def _status(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
