"""From a route to the engine and back: requests are admitted, outputs come as they are made, and nobody who has left
is worked for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import anyio.to_thread
import fastapi
from fastapi.routing import APIRoute
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from pronk.engine.request import Output, Request
from pronk.errors import EngineStopped, PronkError
from pronk.server.errors import ApiError, ClientGone
from pronk.server.state import ServedModel, ServerState

_HEARTBEAT = 1.0  # seconds after which a waiting answer looks whether the engine lives
_HEARTBEATS = 5  # for which one that does not may still deliver

log = logging.getLogger("pronk.server")


async def run(
    state: ServerState, model: ServedModel, requests: Sequence[Request], connection: fastapi.Request
) -> Outputs:
    """Admit requests that belong to one answer and hand them to the engine.

    Raises, before any runs: ApiError 429 when the queue is full and 503 when the server is stopping, RequestError for
    a request that can never run, EngineStopped. The outputs that come back must be read to their end or closed:

        async with await run(state, model, requests, connection) as outputs:
            async for output in outputs: ...
    """
    if state.draining:
        state.check_open()
    if model.in_flight and not model.room_for(len(requests), state.settings.max_queue):
        raise state.overloaded()
    seconds = state.settings.request_seconds
    deadline = None if seconds is None else time.monotonic() + seconds
    slide = state.settings.overflow == "slide"
    wanted = [
        replace(r, deadline=r.deadline or deadline, slide=r.slide or slide, adapter=model.adapter) for r in requests
    ]
    for request in wanted:
        _check_length(model, request)
    outputs = Outputs(state, model, wanted, connection)
    try:
        # In a thread: a grammar is compiled in here, and that may take a while.
        await anyio.to_thread.run_sync(model.service.submit, wanted, outputs.deliver)
    except BaseException:
        outputs.forget()
        raise
    outputs.watch()
    return outputs


def _check_length(model: ServedModel, request: Request) -> None:
    """The engine refuses it too, but this is the error whose code OpenAI's clients look for."""
    length, context = len(request.prompt), model.llama.context
    if length > context and not request.slide:
        said = f"the prompt has {length} tokens, the context holds {context}; shorten it"
        raise ApiError(400, said, code="context_length_exceeded")


class Outputs(AsyncIterator[Output]):
    """The outputs of some requests, until each has ended; ClientGone once the client has left, ApiError 500 for a
    request that failed. Leaving the `async with` cancels what has not ended."""

    def __init__(
        self, state: ServerState, model: ServedModel, requests: Sequence[Request], connection: fastapi.Request
    ) -> None:
        self._state = state
        self._model = model
        self._live = {request.id: state.traces.engine(model.name, request) for request in requests}
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Output | Exception] = asyncio.Queue()
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False
        model.in_flight += len(requests)

    def deliver(self, output: Output) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._arrive, output)

    def watch(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def __anext__(self) -> Output:
        if not self._live and self._queue.empty():
            raise StopAsyncIteration
        output = ClientGone() if self._gone else await self._queue.get()
        if isinstance(output, Exception):
            raise output
        if isinstance(output.error, PronkError):
            raise output.error
        if output.error:
            log.error("a step failed", exc_info=output.error, extra={"request_id": output.request_id})
            raise ApiError(500, "the engine failed at this request; the server's log says why", "server_error")
        return output

    async def __aenter__(self) -> Outputs:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what has not ended. Doing it again does no harm."""
        if self._watcher:
            self._watcher.cancel()
        if self._live:
            self._model.service.cancel(list(self._live))

    def forget(self) -> None:
        """Nothing was submitted."""
        self._model.in_flight -= len(self._live)
        self._abandon_spans()
        self._live.clear()

    def _arrive(self, output: Output) -> None:
        """In the event loop. Counts go down here, when the engine is done with a request, whoever still listens."""
        if output.request_id not in self._live:
            return
        self._state.metrics.output(self._model.name, output)
        if output.finish_reason:
            if span := self._live.pop(output.request_id):
                span.ended(output)
            self._model.in_flight -= 1
        self._queue.put_nowait(output)

    async def _watch(self) -> None:
        """The body has been read, so what comes next from the client is that it has left. An engine that ends says so
        for each of its requests; should it not have come to that, nobody waits for ever."""
        gone = self._loop.create_task(_disconnected(self._connection))
        silent = 0
        try:
            while not gone.done() and silent < _HEARTBEATS:
                await asyncio.wait([gone], timeout=_HEARTBEAT)
                silent = 0 if self._model.service.alive else silent + 1
            self._gone = gone.done()
        finally:
            gone.cancel()
        if self._gone:
            self._model.service.cancel(list(self._live))
            self._queue.put_nowait(ClientGone())
        else:
            self._abandon_spans()
            self._queue.put_nowait(EngineStopped("the engine has stopped in the middle of an answer"))

    def _abandon_spans(self) -> None:
        for span in filter(None, self._live.values()):
            span.abandoned()


async def _disconnected(connection: HttpRequest) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass


def gated(state: ServerState) -> type[APIRoute]:
    """The class of routes that work the engine: they refuse while the server is full or stopping, before the body is
    parsed. For `APIRouter(route_class=gated(state))`."""

    class GatedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: HttpRequest) -> Response:
                state.check_open()
                return await handle(request)

            return checked

    return GatedRoute
