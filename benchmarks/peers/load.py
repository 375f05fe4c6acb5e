"""Clients of a server that streams OpenAI's completions: what they ask, what they saw, and figures of it.

An HTTP client of few lines, because the clients share the machine with the server: what they cost is in the figures of
both sides. No server is started here and no file is read or written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Ask:
    """A prompt, and how many tokens to answer it with at most."""

    prompt: str
    tokens: int

    def body(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0, "stream": True}


@dataclass(frozen=True)
class Seen:
    """What one client saw of one request, in seconds from sending it. status 0: the connection failed. `tokens`: an
    answer that ended by its length has as many as were asked for; of another, each piece is counted as one."""

    status: int
    seconds: float
    first: float | None = None
    last: float | None = None
    tokens: int = 0
    text: str = ""
    vanished: bool = False
    times: tuple[float, ...] = ()  # of the answer's pieces

    @property
    def gaps(self) -> list[float]:
        """Between one piece and the next."""
        return [after - before for before, after in pairwise(self.times)]

    @property
    def answered(self) -> bool:
        return self.status == 200 and not self.vanished and self.last is not None

    @property
    def per_token(self) -> float | None:
        """Between tokens, on average."""
        if self.first is None or self.last is None or self.tokens < 2:
            return None
        return (self.last - self.first) / (self.tokens - 1)


async def ask(port: int, wanted: Ask, *, vanish_after: int | None = None) -> Seen:
    """`vanish_after` so many pieces of the answer the connection is cut; 0: once the request is sent."""
    start = time.perf_counter()
    times: list[float] = []
    text, status, ended = "", 0, ""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
        async with _posted(port, "/v1/completions", wanted.body()) as reader:
            if vanish_after == 0:
                return Seen(0, time.perf_counter() - start, vanished=True)
            status, chunked = await _head(reader)
            async for line in _lines(reader, chunked):
                if not line.startswith(b"data:") or line.endswith(b"[DONE]"):
                    continue
                choice = (json.loads(line[5:]).get("choices") or [{}])[0]
                ended = choice.get("finish_reason") or ended
                if piece := choice.get("text", ""):
                    text += piece
                    times.append(time.perf_counter() - start)
                    if vanish_after is not None and len(times) >= vanish_after:
                        return Seen(status, times[-1], times[0], times[-1], len(times), text, vanished=True)
    seconds = time.perf_counter() - start
    if status != 200 or not ended:
        return Seen(status if status != 200 else 0, seconds, text=text)
    first, last = (times[0], times[-1]) if times else (seconds, seconds)
    return Seen(200, seconds, first, last, wanted.tokens if ended == "length" else len(times), text, times=tuple(times))


@dataclass(frozen=True)
class Told:
    """The end of a request that is not streamed. status 0: the connection failed; tokens: of the answer."""

    status: int
    seconds: float
    tokens: int = 0


async def post(port: int, path: str, body: Any) -> Told:
    start, status, tokens = time.perf_counter(), 0, 0
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
        async with _posted(port, path, body) as reader:
            status, chunked = await _head(reader)
            answer = b"".join([line async for line in _lines(reader, chunked)])
            if status == 200:
                tokens = json.loads(answer)["usage"]["completion_tokens"]
    return Told(status, time.perf_counter() - start, tokens)


async def drive(asks: Iterable[Ask], clients: int, one: Callable[[Ask], Any]) -> list[Any]:
    """`one` of each ask, by so many clients, each with one request at a time."""
    waiting = iter(list(asks))  # shared: each ask goes to one client

    async def client() -> list[Any]:
        return [await one(wanted) for wanted in waiting]

    return [seen for own in await asyncio.gather(*(client() for _ in range(clients))) for seen in own]


# --- HTTP ---


@contextlib.asynccontextmanager
async def _posted(port: int, path: str, body: Any) -> AsyncIterator[asyncio.StreamReader]:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        await writer.drain()
        yield reader
    finally:
        writer.transport.abort()  # no lingering: who vanishes is gone
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """(status, whether the body comes in chunks)."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return int(head.split(b" ", 2)[1]), b"transfer-encoding: chunked" in head


async def _lines(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    """The body's lines as they are whole, wherever the chunks are cut."""
    rest = b""
    while data := await _chunk(reader) if chunked else await reader.read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
    if rest:
        yield rest


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline()).split(b";")[0], 16)
    data = await reader.readexactly(size)
    await reader.readexactly(2)
    return data


# --- what is asked ---


def mixed_asks(count: int, word: Callable[[random.Random], str], *, longest: int, seed: int) -> list[Ask]:
    """Prompts of one of three system texts and a question of its own, and answers, of mixed lengths up to `longest`
    words and tokens. The same for the same seed. `word`: about a token."""
    rng = random.Random(seed)
    systems = ["".join(word(rng) for _ in range(longest // 2)) for _ in range(3)]
    asks = []
    for _ in range(count):
        length = min(int(rng.lognormvariate(math.log(longest / 8), 1)) + 4, longest // 2)
        question = "".join(word(rng) for _ in range(length))
        asks.append(Ask(rng.choice(systems) + question, rng.randint(longest // 16, longest // 4)))
    return asks


# --- figures ---


@dataclass(frozen=True)
class Figures:
    """Of one engine under one load. Seconds; the first token's from sending the request."""

    tokens_per_second: float
    first_median: float
    first_p99: float
    per_token_median: float
    per_token_p99: float
    answered: int
    failed: int

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def figures(seen: Sequence[Seen], seconds: float) -> Figures:
    """`seconds`: from the first request to the last answer."""
    good = [s for s in seen if s.answered]
    first = [s.first for s in good if s.first is not None]
    each = [s.per_token for s in good if s.per_token is not None]
    return Figures(
        tokens_per_second=sum(s.tokens for s in good) / seconds,
        first_median=percentile(first, 50),
        first_p99=percentile(first, 99),
        per_token_median=percentile(each, 50),
        per_token_p99=percentile(each, 99),
        answered=len(good),
        failed=len([s for s in seen if not s.answered and not s.vanished]),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent do not exceed (nearest rank); nan of none."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of each figure over the rounds; requests are added up."""
    values = {name: statistics.median(r.facts()[name] for r in rounds) for name in rounds[0].facts()}
    values |= {name: sum(r.facts()[name] for r in rounds) for name in ("answered", "failed")}
    return Figures(**values)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


def load_table(rows: Iterable[dict[str, Any]], ours: str) -> str:
    """Markdown of rows {"clients", "engines": {name: [figures of each round], or why there are none}}."""
    head = [
        "clients",
        "engine",
        "tokens/s",
        "ratio",
        "first token, median",
        "p99",
        "per token, median",
        "p99",
        "failed",
    ]
    lines = []
    for row in rows:
        known = {name: medians([Figures(**f) for f in r]) for name, r in row["engines"].items() if isinstance(r, list)}
        for name, rounds in row["engines"].items():
            if name not in known:
                lines.append([str(row["clients"]), name, f"failed: {rounds}", *[""] * (len(head) - 3)])
                continue
            f = known[name]
            ratio = ""
            if name != ours and ours in known and f.tokens_per_second:
                ratio = f"**{known[ours].tokens_per_second / f.tokens_per_second:.2f}**"
            times = [f"{s * 1000:.0f} ms" for s in (f.first_median, f.first_p99, f.per_token_median, f.per_token_p99)]
            lines.append([str(row["clients"]), name, f"{f.tokens_per_second:.1f}", ratio, *times, str(f.failed)])
    return table(head, lines)
