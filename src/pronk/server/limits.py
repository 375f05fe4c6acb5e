"""No body is larger or slower than the settings allow, whether it says its length or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pronk.server.errors import ApiError


class BodyLimit:
    """Reads the whole body before the app sees the request, so that nothing there has to count."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float, render: Callable[[str, ApiError], Response]) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "")
        body: bytes | None = None
        if not (length.isdigit() and int(length[:20]) > self._limit):
            try:
                body = await asyncio.wait_for(self._read(receive), self._seconds)
            except ConnectionError:
                return None  # the client left in the middle of it
            except (TimeoutError, asyncio.TimeoutError):
                late = ApiError(408, f"the body did not arrive within {self._seconds:g} s", code="body_too_slow")
                return await self._render(scope["path"], late)(scope, receive, send)
        if body is None:
            error = ApiError(
                413, f"the body is larger than {self._limit} bytes, the most this server takes", code="body_too_large"
            )
            return await self._render(scope["path"], error)(scope, receive, send)
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """None for a body past the limit."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                return None
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
