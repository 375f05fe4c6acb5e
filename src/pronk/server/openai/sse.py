"""Server-sent events: an answer as it is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from pronk.server.errors import ApiError, ClientGone, as_api_error, dump
from pronk.server.logs import log, request_id

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


def stream(chunks: AsyncIterator[Mapping[str, Any]]) -> StreamingResponse:
    """Chunks as events, an error as the last of them, and [DONE]."""

    async def events() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield event(chunk)
        except ClientGone:
            return
        except Exception as error:
            yield event({"error": error_body(caught(error))})
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers=_HEADERS)


def named_stream(events: AsyncIterator[Mapping[str, Any]]) -> StreamingResponse:
    """Events that carry their own type, as /v1/responses has them. They catch their errors themselves."""

    async def encoded() -> AsyncIterator[bytes]:
        async for data in events:
            yield event(data, data["type"])

    return StreamingResponse(encoded(), media_type="text/event-stream", headers=_HEADERS)
