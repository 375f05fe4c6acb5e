"""From a socket to an exit status: serving, and stopping without breaking off answers.

The first SIGTERM or Ctrl-C makes the server refuse new requests (and say that it is not ready) while those under way
finish; the socket stays open meanwhile, so that who asks is told and not cut off. The second ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from pronk.errors import RequestError
from pronk.server.app import create_app
from pronk.server.state import ServerState

_TICK = 0.05
_LAST_WORDS = 2.0  # seconds for answers that were broken off to say so


def bind(host: str, port: int) -> socket.socket:
    """A socket of ours at an address, not listening yet. Port 0 takes a free one. Raises RequestError."""
    if not 0 <= port <= 65535:
        raise RequestError(f"port {port} is none; choose --port from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two programs have one port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    return sock


def _cannot_listen(host: str, port: int, error: OSError) -> RequestError:
    return RequestError(f"cannot listen on {host}, port {port}: {error.strerror}; choose another --host or --port")


def url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(state: ServerState, sock: socket.socket, ready: Callable[[], None] = lambda: None) -> int:
    """Serve until a signal comes, and give the exit status: 0, or 130 after Ctrl-C. `ready` is called when the first
    request can come. Raises RequestError where the port is gone by now.

    In another thread than the main one there are no signals; `Server.stop` does the same."""
    server = Server(state, ready)
    host, port = sock.getsockname()[:2]
    try:
        server.run([sock])
    except OSError as error:  # somebody else began to listen there while the model was loaded
        if server.started:
            raise
        raise _cannot_listen(host, port, error) from None
    return server.status


class Server(uvicorn.Server):
    """uvicorn, with an end of our own."""

    def __init__(self, state: ServerState, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(state), lifespan="off", log_config=None, access_log=False, server_header=False,
                timeout_graceful_shutdown=int(_LAST_WORDS), loop="asyncio", http="h11", ws="none",
            )
        )  # fmt: skip
        self.status = 0
        self._state = state
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._ready()

    def stop(self) -> None:
        """Begin to stop; from any thread. May be called again."""
        self._state.draining = True
        if self._loop:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._drain_soon)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last on Windows
        before = {number: signal.signal(number, self._signalled) for n in names if (number := getattr(signal, n, None))}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._state.draining:
            os._exit(128 + number)
        self.status = 130 if number == signal.SIGINT else 0
        self.stop()

    def _drain_soon(self) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._state.settings.drain_seconds
        while self._state.active and loop.time() < patience:
            await asyncio.sleep(_TICK)
        for model in self._state.models.values():
            await loop.run_in_executor(None, model.service.close)  # what still runs ends with "cancelled"
        patience = loop.time() + _LAST_WORDS
        while self._state.active and loop.time() < patience:
            await asyncio.sleep(_TICK)
        self.should_exit = True
