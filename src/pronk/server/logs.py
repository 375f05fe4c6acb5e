"""One line a request, with an id that the client may bring and gets back. Never a prompt or an answer."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pronk.server.errors import ApiError, ClientGone, as_api_error
from pronk.server.state import ServerState

request_id: ContextVar[str] = ContextVar("request_id", default="")

log = logging.getLogger("pronk.server")

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_QUIET = ("/health/live", "/health/ready", "/metrics")  # asked every few seconds by machines
_FACTS = ("request_id", "method", "path", "status", "seconds", "client")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in _FACTS if hasattr(record, name)},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """A record for people, on one line but for tracebacks."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not hasattr(record, "status"):
            return text
        head, line_break, traceback = text.partition("\n")
        said = " ".join(str(getattr(record, name)) for name in _FACTS[1:4])
        return f"{head} {said} {getattr(record, 'seconds', 0):.3f}s {record.request_id}" + line_break + traceback  # type: ignore[attr-defined]


def set_up(as_json: bool, stream: TextIO | None = None) -> None:
    """Logs of the server, and warnings of uvicorn and of what sends traces, on standard error. In a program that
    embeds the server: leave it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    for name, level in (
        ("pronk.server", logging.INFO), ("uvicorn.error", logging.WARNING), ("opentelemetry", logging.WARNING),
    ):  # fmt: skip
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


class RequestLog:
    """Outermost: counts and logs every request, and answers what nobody else caught."""

    def __init__(self, app: ASGIApp, state: ServerState, render: Callable[[str, ApiError], Response]) -> None:
        self._app = app
        self._state = state
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(name)
        started, status, counted = time.perf_counter(), 0, scope["path"] not in _QUIET
        self._state.active += counted

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = name
                if self._state.draining:
                    headers["Connection"] = "close"
            await send(message)

        with self._state.traces.http(scope, name) if counted else nullcontext() as span:
            try:
                await self._app(scope, receive, stamped)
            except ClientGone:
                status = status or 499
            except Exception as error:
                log.exception("a request failed", extra={"request_id": name})
                if not status:
                    await self._render(scope["path"], as_api_error(error))(scope, receive, stamped)
            finally:
                self._state.active -= counted
                status = status or 499
                if span:
                    span.answered(*_route(scope), status)
                self._record(scope, name, status, time.perf_counter() - started, counted)
                request_id.reset(token)
        return None

    def _record(self, scope: Scope, name: str, status: int, seconds: float, counted: bool) -> None:
        method, route = _route(scope)
        self._state.metrics.requests.labels(route, method, str(status)).inc()
        self._state.metrics.seconds.labels(route).observe(seconds)
        if counted or status >= 500:
            client = scope["client"][0] if scope.get("client") else None
            facts = {"request_id": name, "method": method, "path": scope["path"], "status": status}
            log.info("request", extra={**facts, "seconds": round(seconds, 6), "client": client})


def _route(scope: Scope) -> tuple[str, str]:
    """(method, path) as declared: those of the client's would be without end."""
    method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
    return method, getattr(scope.get("route"), "path", "other")
