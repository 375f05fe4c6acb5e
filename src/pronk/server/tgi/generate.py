"""/generate and /generate_stream: one body, answered whole or token by token."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio.to_thread
import fastapi
from starlette.responses import Response, StreamingResponse

from pronk.server.errors import ClientGone, Json, dump
from pronk.server.run import Outputs, run
from pronk.server.state import ServedModel, ServerState
from pronk.server.tgi.answers import Answer, NewToken
from pronk.server.tgi.convert import Wanted, invalid, wanted
from pronk.server.tgi.errors import caught, error_of, error_response
from pronk.server.tgi.schemas import GenerateRequest, GenerateResponse, StreamResponse


async def generate(
    state: ServerState, body: GenerateRequest, connection: fastapi.Request, *, in_list: bool = False
) -> Response:
    """The likeliest of `best_of` answers, whole, with TGI's headers."""
    started = time.perf_counter()
    model = state.adapted(body.parameters.adapter_id if body.parameters else None)
    asked = await understood(body, model, state, stream=False)
    best, *others = likeliest_first(await finished(state, model, asked, connection))
    details = None
    if asked.details:
        details = best.details([other.sequence(asked.in_front) for other in others] or None)
    response = to_json(GenerateResponse(generated_text=asked.in_front + best.text, details=details))
    headers = _headers(best, len(body.inputs), time.perf_counter() - started)
    return Json([response] if in_list else response, headers=headers)


async def understood(body: GenerateRequest, model: ServedModel, state: ServerState, *, stream: bool) -> Wanted:
    """In a thread: reading a long text takes time. Raises ApiError, RequestError, TokenizerError."""
    if body.stream is not None and body.stream != stream:
        raise invalid("stream", f"is {str(body.stream).lower()}, which this path is not for; leave it out, or use /")
    return await anyio.to_thread.run_sync(
        lambda: wanted(body.inputs, body.parameters, model, state.settings, stream=stream)
    )


async def finished(state: ServerState, model: ServedModel, asked: Wanted, connection: fastapi.Request) -> list[Answer]:
    """All of one body's answers, in the order of its requests."""
    answers = {answer.request.id: answer for answer in _answers(asked, model)}
    async with await run(state, model, asked.requests, connection) as outputs:
        async for output in outputs:
            answers[output.request_id].feed(output)
    return list(answers.values())


def likeliest_first(answers: list[Answer]) -> list[Answer]:
    return sorted(answers, key=lambda answer: -answer.mean_logprob)


async def generate_stream(state: ServerState, body: GenerateRequest, connection: fastapi.Request) -> Response:
    """Server-sent events, a token each. What can be refused is refused before the stream begins, by its status."""
    model = state.adapted(body.parameters.adapter_id if body.parameters else None)
    asked = await understood(body, model, state, stream=True)
    (answer,) = _answers(asked, model)
    outputs = await run(state, model, asked.requests, connection)
    headers = {
        "x-compute-characters": str(len(body.inputs)),
        "X-Accel-Buffering": "no",
        "Cache-Control": "no-cache",
    }
    return StreamingResponse(_events(outputs, answer, asked), media_type="text/event-stream", headers=headers)


def to_json(response: GenerateResponse | StreamResponse) -> dict[str, object]:
    """Optional parts are left out, but for those that TGI always writes."""
    data = response.model_dump()
    for holder in (data, data.get("details") or {}, *((data.get("details") or {}).get("best_of_sequences") or [])):
        for name in ("top_tokens", "best_of_sequences"):
            if holder.get(name, ...) is None:
                del holder[name]
    if isinstance(response, GenerateResponse) and response.details is None:
        del data["details"]
    return data


def event(content: object) -> bytes:
    return f"data:{dump(content)}\n\n".encode("utf-8", "backslashreplace")


async def _events(outputs: Outputs, answer: Answer, asked: Wanted) -> AsyncIterator[bytes]:
    index = 0
    async with outputs:
        try:
            async for output in outputs:
                new = answer.feed(output)
                for position, token in enumerate(new, 1):
                    index += 1
                    last = output.finish_reason is not None and position == len(new)
                    yield event(to_json(_stream_response(index, token, answer if last else None, asked)))
                if output.finish_reason and not new:
                    yield event(error_response("the time was up before the next token", "incomplete_generation"))
        except ClientGone:
            return
        except Exception as error:  # the status has been sent, so the error is an event
            yield event(error_of(caught(error)))


def _stream_response(index: int, new: NewToken, ended: Answer | None, asked: Wanted) -> StreamResponse:
    return StreamResponse(
        index=index,
        token=new.token,
        top_tokens=list(new.top) or None,
        generated_text=None if ended is None else asked.in_front + ended.text,
        details=ended.stream_details() if ended and asked.details else None,
    )


def _answers(asked: Wanted, model: ServedModel) -> list[Answer]:
    tokenizer = model.llama.tokenizer
    return [Answer(tokenizer, request, seed) for request, seed in zip(asked.requests, asked.seeds, strict=True)]


def _headers(answer: Answer, characters: int, total: float) -> dict[str, str]:
    """Times are whole milliseconds, but for x-compute-time, which is seconds. Queue and inference are the engine's."""
    timings, usage = answer.timings, answer.usage
    queue = max(timings.first_token_seconds - timings.prompt_seconds, 0.0)
    inference = timings.prompt_seconds + timings.decode_seconds
    return {
        "x-compute-time": str(total),
        "x-compute-characters": str(characters),
        "x-total-time": _milliseconds(total),
        "x-validation-time": _milliseconds(max(total - queue - inference, 0.0)),
        "x-queue-time": _milliseconds(queue),
        "x-inference-time": _milliseconds(inference),
        "x-time-per-token": _milliseconds(inference / max(usage.completion_tokens, 1)),
        "x-prompt-tokens": str(usage.prompt_tokens),
        "x-generated-tokens": str(usage.completion_tokens),
    }


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
