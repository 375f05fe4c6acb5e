"""What benchmarks/serving.py asks, sees and says: clients against a server of given bytes, figures, the table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from benchmarks.peers.hostile import hostile
from benchmarks.peers.load import Ask, Seen, Told, ask, drive, figures, load_table, mixed_asks, percentile, post

T = TypeVar("T")
EVENTS = [
    {"choices": [{"text": "He"}]},
    {"choices": [{"text": "y"}]},
    {"choices": [{"text": "", "finish_reason": "length"}]},
]
STREAM = "".join(f"data: {json.dumps(event)}\n\n" for event in EVENTS).encode() + b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes, size: int) -> bytes:
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


def answered_with(answer: bytes, vanish_after: int | None = None) -> Seen:
    """What a client sees of a server that sends these bytes and closes."""
    return asked_of(answer, lambda port: ask(port, Ask("Say hey", 7), vanish_after=vanish_after))


def asked_of(answer: bytes, one: Callable[[int], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                writer.close()
                await writer.wait_closed()
            done.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            seen = await one(server.sockets[0].getsockname()[1])
            await done.wait()
            return seen

    return asyncio.run(run())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_is_read_wherever_its_chunks_are_cut(size: int) -> None:
    seen = answered_with(HEAD + chunked(STREAM, size))
    assert (seen.status, seen.text, seen.answered) == (200, "Hey", True)
    assert seen.tokens == 7, "it ended by its length"


def test_an_answer_that_ended_by_itself_counts_its_pieces() -> None:
    assert answered_with(HEAD + chunked(STREAM.replace(b"length", b"stop"), 50)).tokens == 2


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}", 429),
        (HEAD + chunked(STREAM[:40], 20), 0),  # it breaks off
        (b"", 0),
    ],
)
def test_what_is_no_whole_answer_is_none(answer: bytes, status: int) -> None:
    seen = answered_with(answer)
    assert (seen.status, seen.answered, seen.vanished) == (status, False, False)


@pytest.mark.parametrize(("after", "text"), [(0, ""), (1, "He")])
def test_a_client_vanishes_when_it_is_told_to(after: int, text: str) -> None:
    seen = answered_with(HEAD + chunked(STREAM, 1000), vanish_after=after)
    assert (seen.vanished, seen.answered, seen.text) == (True, False, text)


@pytest.mark.parametrize(
    ("answer", "status", "tokens"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{"usage":\n{"completion_tokens": 3}}', 200, 3),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", 400, 0),
        (b"", 0, 0),
    ],
)
def test_the_end_of_a_request_that_is_not_streamed(answer: bytes, status: int, tokens: int) -> None:
    told: Told = asked_of(answer, lambda port: post(port, "/", {}))
    assert (told.status, told.tokens) == (status, tokens)


def test_each_ask_goes_to_one_client() -> None:
    busy: list[int] = []

    async def one(wanted: Ask) -> tuple[Ask, int]:
        busy.append(wanted.tokens)
        at_once = len(busy)
        await asyncio.sleep(0)
        busy.remove(wanted.tokens)
        return wanted, at_once

    asks = [Ask("", i) for i in range(10)]
    seen = asyncio.run(drive(asks, 3, one))
    assert sorted(wanted.tokens for wanted, _ in seen) == list(range(10))
    assert max(at_once for _, at_once in seen) == 3


def test_figures_are_of_those_who_were_answered() -> None:
    good = [Seen(200, 3, first=1.0, last=3.0, tokens=3), Seen(200, 6, first=2.0, last=6.0, tokens=2)]
    found = figures([*good, Seen(429, 0.1), Seen(200, 1, 1, 1, 1, vanished=True)], seconds=10)
    assert (found.tokens_per_second, found.first_median, found.first_p99) == (0.5, 1.0, 2.0)
    assert (found.per_token_median, found.per_token_p99) == (1.0, 4.0)
    assert (found.answered, found.failed) == (2, 1)


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile(list(range(1, 101)), p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([5.0], 99) == 5.0
    assert math.isnan(percentile([], 50))


def test_a_table_has_a_line_for_each_engine_and_the_ratio_of_medians() -> None:
    def rounds(*speeds: float) -> list[dict[str, object]]:
        return [{**figures([], 1.0).facts(), "tokens_per_second": speed} for speed in speeds]

    row = {"clients": 4, "engines": {"ours": rounds(30, 10, 20), "peer": rounds(5), "gone": "not installed"}}
    lines = load_table([row], "ours").strip().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| ours | 20.0 |" in lines[2]
    assert "| **4.00** |" in lines[3]
    assert "failed: not installed" in lines[4]


def test_the_same_is_asked_in_every_run() -> None:
    def asked(seed: int) -> list[Ask]:
        return mixed_asks(30, lambda rng: rng.choice((" a", " b")), longest=64, seed=seed)

    assert asked(1) == asked(1) != asked(2)
    assert len({wanted.prompt[:64] for wanted in asked(1)}) == 3, "three system texts"
    assert all(4 <= wanted.tokens <= 16 and len(wanted.prompt) <= 128 for wanted in asked(1))
    assert len({len(wanted.prompt) for wanted in asked(1)}) > 5


def test_two_hundred_attacks_of_three_kinds() -> None:
    attacks = hostile(200)
    assert [sum(kind == k for k, _, _ in attacks) for kind in ("template", "regex", "schema")] == [68, 66, 66]
    bodies = {json.dumps(body) for _, _, body in attacks}
    assert len(bodies) == 200
    assert max(map(len, bodies)) < 1 << 20
