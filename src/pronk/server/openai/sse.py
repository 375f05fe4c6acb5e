"""Server-sent events: an answer as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse

from pronk.server.errors import ApiError, ClientGone, as_api_error, dump
from pronk.server.logs import log, request_id

_QUIET_SECONDS = 15.0
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies are not to collect it


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {dump(data)}\n\n".encode("utf-8", "backslashreplace")


def error_body(error: ApiError) -> Mapping[str, Any]:
    return {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}


def caught(error: Exception) -> ApiError:
    """An error in the middle of a stream, logged where it is ours."""
    shown = as_api_error(error)
    if shown.status >= 500 and not isinstance(error, ApiError):
        log.error("a stream failed", exc_info=error, extra={"request_id": request_id.get()})
    return shown


def stream(chunks: AsyncGenerator[Mapping[str, Any], None]) -> StreamingResponse:
    """Chunks as events, an error as the last of them, and [DONE]."""

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield event(chunk)
        except ClientGone:
            return
        except Exception as error:
            yield event({"error": error_body(caught(error))})
        yield b"data: [DONE]\n\n"

    return _response(events())


def named_stream(events: AsyncGenerator[Mapping[str, Any], None]) -> StreamingResponse:
    """Events that carry their own type, as /v1/responses has them. They catch their errors themselves."""

    async def encoded() -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for data in events:
                yield event(data, data["type"])

    return _response(encoded())


def _response(events: AsyncGenerator[bytes, None]) -> StreamingResponse:
    return StreamingResponse(_kept_alive(events), media_type="text/event-stream", headers=_HEADERS)


async def _kept_alive(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """With a comment, which clients skip, wherever a long prompt would let a proxy think that nobody is there."""
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(events))
            following.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # it may come too late
            while not (await asyncio.wait([following], timeout=_QUIET_SECONDS))[0]:
                yield b": still at it\n\n"
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:
        if following and not following.done():
            following.cancel()
        else:
            await events.aclose()
