"""pronk's server under load, beside llama-cpp-python's on the same GGUF file and the same cores, in one run.

Rows:
- load: 1, 4, 16 and 64 clients, each with one request at a time, streamed, in all two a client, but 8 to 64; prompts
  and answers of mixed lengths, a part of them shared. All tokens a second; the time to the first token and the time per
  token, median and 99th percentile, as the clients saw them. The servers take turns, round by round, each a process of
  its own that ends before the other one starts. The figures of a round's clients are one value, and the table has the
  medians of the rounds.
- soak: 64 clients for --minutes; 30 % of the requests are cut off by the client. The others' answers are what the model
  gives alone, whoever had to give up pages in between, the cache's pages come back, and memory stays.
- overload: ten times as many requests as the server takes, one every 20 ms: who is turned away, and how soon.
- hostile: 200 templates, expressions and schemas that are made to hurt, beside four ordinary clients, round by round;
  and beside the same four as many harmless requests, each refused, or answered at the length of the attack that it
  stands for. The attacks are to cost the four no more than these do.

The last three are pronk's alone: kept or broken, not compared. Every row is saved as it is done, in a JSON file
and in a table beside it; a row that the file has already is replaced. The clients run in this process, on the servers'
cores. llama-cpp-python's server needs packages that pronk does not: they are installed, once, into an environment in
benchmarks/.cache (or PRONK_BENCH_DIR), where llama-cpp-python itself is the one that this Python has. Let nothing else
run meanwhile.

usage: serving.py [--rows load,soak,overload,hostile] [--clients 1,4,16,64] [--rounds 3] [--threads N] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

from peers.hostile import hostile
from peers.load import Ask, Seen, Told, ask, drive, figures, load_table, mixed_asks, percentile, post, table
from peers.models import model_file
from peers.servers import Server, peer_python

import pronk
from pronk.checkpoints.open import open_checkpoint
from pronk.native import runtime

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("PRONK_BENCH_DIR", HERE / ".cache"))
LOG = CACHE / "server.log"
PRONK = [sys.executable, "-m", "pronk"]
OURS, PEER = "pronk", "llama-cpp-python's server"
ROWS = ("load", "soak", "overload", "hostile")
VANISHING = 0.3
ALONE, TWINS, ATTACKS = "alone", "beside harmless requests", "beside the attacks"
SEED = 1


# --- servers ---


def our_server(args: argparse.Namespace, *options: str) -> Server:
    command = ["serve", args.model, "--port", "0", "--json", "--threads", str(args.threads), "--ctx", str(args.ctx)]
    return Server([*PRONK, *command, *options], None, "/health/ready", LOG)


def peer_server(args: argparse.Namespace) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": args.file, "port": port, "n_ctx": args.ctx, "n_threads": args.threads}
    # Or a client that asks ends the answer that another one is reading.
    options |= {"n_threads_batch": args.threads, "interrupt_requests": False, "verbose": False}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return Server([str(args.peer), "-m", "llama_cpp.server", *flags], port, "/v1/models", LOG)


# --- rows ---


def load_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    servers: dict[str, Callable[[], Server] | str] = {OURS: lambda: our_server(args)}
    try:
        args.peer = peer_python(CACHE)
        servers[PEER] = lambda: peer_server(args)
    except RuntimeError as error:
        servers[PEER] = str(error)
    for clients in args.clients:
        asks = asks_of(args, max(min(2 * clients, 64), 8))
        engines: dict[str, Any] = {name: [] if callable(start) else start for name, start in servers.items()}
        for _ in range(args.rounds):
            for name, start in servers.items():
                if callable(start):
                    with start() as server:
                        engines[name].append(measured(server, asks, clients).facts())
        yield {"row": "load", "key": clients, "clients": clients, "requests": len(asks), "engines": engines}


def measured(server: Server, asks: Sequence[Ask], clients: int) -> Any:
    asyncio.run(ask(server.port, Ask("warm up", 4)))
    start = time.perf_counter()
    seen = asyncio.run(drive(asks, clients, lambda wanted: ask(server.port, wanted)))
    return figures(seen, time.perf_counter() - start)


def soak_row(args: argparse.Namespace) -> dict[str, Any]:
    asks = asks_of(args, 24)
    with our_server(args) as server:
        alone = {wanted: asyncio.run(ask(server.port, wanted)).text for wanted in asks}
        memory = [server.memory]
        seen: list[tuple[Ask, Seen]] = []
        start = time.monotonic()
        for part in range(1, 5):  # memory is read after each quarter
            asyncio.run(_soak(server, asks, seen, args.soak_clients, start + args.minutes * 60 * part / 4, part))
            memory.append(server.memory)
        at_rest = server.rests()
        whole = [(wanted, s) for wanted, s in seen if s.answered]
        facts = {
            "clients": args.soak_clients,
            "minutes": args.minutes,
            "requests": len(seen),
            "vanished": sum(s.vanished for _, s in seen),
            "answered": len(whole),
            "answered otherwise than alone": sum(s.text != alone[wanted] for wanted, s in whole),
            "failed": sum(not s.answered and not s.vanished for _, s in seen),
            "preemptions": int(server.metric("preemptions_total")),
            "came to rest": at_rest,
            "pages used afterwards": server.metric("pages_used"),
            "memory before, and after each quarter (MB)": [round(m / 1e6, 1) for m in memory],
        }
    return {"row": "soak", "key": "", "facts": facts}


async def _soak(
    server: Server, asks: Sequence[Ask], seen: list[tuple[Ask, Seen]], clients: int, end: float, seed: int
) -> None:
    rng = random.Random(seed)

    async def client() -> None:
        while time.monotonic() < end:
            wanted = rng.choice(asks)
            vanish_after = rng.choice((0, 0, 1, 2, 8)) if rng.random() < VANISHING else None
            seen.append((wanted, await ask(server.port, wanted, vanish_after=vanish_after)))

    await asyncio.gather(*(client() for _ in range(clients)))


def overload_row(args: argparse.Namespace) -> dict[str, Any]:
    running, queue, gap = 4, 12, 0.02
    asks = asks_of(args, 10 * (running + queue))
    with our_server(args, "--max-sequences", str(running), "--max-queue", str(queue)) as server:
        asyncio.run(ask(server.port, Ask("warm up", 4)))
        seen = asyncio.run(_arriving(server, asks, gap))
    refused = [s.seconds for s in seen if s.status == 429]
    statuses = Counter(s.status for s in seen)
    facts = {
        "places (running, waiting)": [running, queue],
        "requests, one every": [len(asks), f"{gap * 1000:.0f} ms"],
        "answers by status (0: the connection failed)": {str(k): n for k, n in sorted(statuses.items())},
        "429 told after, median (ms)": round(percentile(refused, 50) * 1000, 1) if refused else None,
        "p99": round(percentile(refused, 99) * 1000, 1) if refused else None,
        "at most": round(max(refused) * 1000, 1) if refused else None,
    }
    return {"row": "overload", "key": "", "facts": facts}


async def _arriving(server: Server, asks: Sequence[Ask], gap: float) -> list[Seen]:
    """A request every `gap` seconds, whether those before it are done or not."""

    async def late(number: int, wanted: Ask) -> Seen:
        await asyncio.sleep(gap * number)
        return await ask(server.port, wanted)

    return await asyncio.gather(*(late(number, wanted) for number, wanted in enumerate(asks)))


def hostile_row(args: argparse.Namespace) -> dict[str, Any]:
    asks, attacks = asks_of(args, 48, args.longest // 2), hostile(args.attacks)
    answers: list[list[Told]] = []  # of each round, in the order of the attacks
    seen: dict[str, list[Seen]] = {ALONE: [], TWINS: [], ATTACKS: []}
    wrong, at_rest = 0, True
    for number in range(args.hostile_rounds):
        # Attacks of different kinds stand side by side, otherwise in each round.
        order = random.Random(number).sample(range(len(attacks)), len(attacks))
        with our_server(args) as server:
            alone = _each_token_shown(server, asks, 16)
            for phase in (ATTACKS, TWINS, ALONE) if number % 2 == 0 else (ALONE, TWINS, ATTACKS):
                others: list[tuple[str, Any]] = []
                if phase == TWINS:
                    others = [twin(i, answers[-1][i]) for i in order]
                elif phase == ATTACKS:
                    others = [attacks[i][1:] for i in order]
                found, told = asyncio.run(_beside(server, list(alone), others))
                if phase == ATTACKS:
                    answers.append([told[order.index(i)] for i in range(len(attacks))])
                seen[phase] += [s for _, s in found]
                wrong += sum(s.text != alone[wanted] for wanted, s in found if s.answered)
            at_rest = at_rest and server.rests()
    facts: dict[str, Any] = {"attacks, in each of so many rounds": [len(attacks), args.hostile_rounds]}
    for kind in dict.fromkeys(kind for kind, _, _ in attacks):
        which = [i for i, attack in enumerate(attacks) if attack[0] == kind]
        facts |= _told_facts(kind, [told[i] for told in answers for i in which])
    for phase, all_seen in seen.items():
        facts |= _ordinary_facts(f"ordinary clients {phase}", all_seen)
    facts |= {"answered otherwise than alone": wrong, "came to rest": at_rest}
    return {"row": "hostile", "key": "", "facts": facts}


def _each_token_shown(server: Server, asks: Sequence[Ask], count: int) -> dict[Ask, str]:
    """So many of these, with their answers, that show each token as it comes: half a character shows nothing, and the
    time to the first text would not be the time to the first token."""
    found: dict[Ask, str] = {}
    for wanted in asks:
        answer = asyncio.run(ask(server.port, wanted))
        if len(answer.times) == answer.tokens == wanted.tokens:
            found[wanted] = answer.text
        if len(found) == count:
            break
    return found


def _told_facts(kind: str, told: Sequence[Told]) -> dict[str, Any]:
    statuses = Counter(answer.status for answer in told)
    return {
        f"{kind}: answers by status": {str(k): n for k, n in sorted(statuses.items())},
        f"{kind}: the longest took (s)": round(max(answer.seconds for answer in told), 2),
    }


def _ordinary_facts(name: str, seen: Sequence[Seen]) -> dict[str, Any]:
    f, gaps = figures(seen, 1.0), [gap for s in seen for gap in s.gaps]
    times = (f.first_median, f.first_p99, percentile(gaps, 50), percentile(gaps, 99))
    return {
        f"{name}: first token, between tokens, each median and p99 (ms)": [round(1000 * t, 1) for t in times],
        f"{name}: answered, failed": [f.answered, f.failed],
    }


def twin(number: int, attack: Told) -> tuple[str, Any]:
    """A harmless request with the same end as an attack: refused, or an answer of as many tokens."""
    body: dict[str, Any] = {"prompt": f"Hello {number}", "max_tokens": max(attack.tokens, 1)}
    return "/v1/completions", body if attack.status == 200 else body | {"n": 0}


async def _beside(
    server: Server, ordinary: Sequence[Ask], others: Sequence[tuple[str, Any]]
) -> tuple[list[tuple[Ask, Seen]], list[Told]]:
    """What four ordinary clients see of what they ask while the others come, four at a time; or, beside none, once
    through what there is to ask. And what the others are told, in their order."""
    told: dict[int, Told] = {}
    seen: list[tuple[Ask, Seen]] = []
    waiting = iter(enumerate(others))
    over = asyncio.Event()

    async def other() -> None:
        for number, (path, body) in waiting:
            told[number] = await post(server.port, path, body)

    async def client(number: int) -> None:
        for wanted in cycle(ordinary[number:] + ordinary[:number]):
            seen.append((wanted, await ask(server.port, wanted)))
            if over.is_set() if others else len(seen) >= len(ordinary):
                return

    async def all_others() -> None:
        await asyncio.gather(*(other() for _ in range(4)))
        over.set()

    await asyncio.gather(all_others(), *(client(4 * number) for number in range(4)))
    return seen, [told[number] for number in range(len(others))]


# --- what is asked, and of which model ---


def asks_of(args: argparse.Namespace, count: int, longest: int = 0) -> list[Ask]:
    """Of the model's own words."""
    words = [text for i in range(256, min(args.words, 8000)) if (text := args.word(i))]
    if not words:
        raise SystemExit(f"the vocabulary of {args.name} has no words to make prompts of; choose another --model")
    return mixed_asks(count, lambda rng: rng.choice(words), longest=longest or args.longest, seed=SEED)


def make_file(args: argparse.Namespace) -> None:
    """The GGUF that both servers open."""
    CACHE.mkdir(parents=True, exist_ok=True)
    args.model = str(model_file(args.model, CACHE))
    checkpoint = open_checkpoint(args.model)
    args.file = str(checkpoint.path)
    args.name = checkpoint.name or checkpoint.path.stem
    args.ctx = min(checkpoint.config.context_length, 4 * args.longest)
    tokenizer = checkpoint.load_tokenizer()
    args.words = tokenizer.vocab_size

    def word(token: int) -> str:
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        return text if re.fullmatch(r" ?[a-z]{2,}", text) else ""

    args.word = word


# --- results ---


def tables(rows: Sequence[dict[str, Any]]) -> str:
    parts = []
    if loads := sorted((row for row in rows if row["row"] == "load"), key=lambda row: int(row["clients"])):
        parts.append(load_table(loads, OURS))
    for row in rows:
        if row["row"] != "load":
            lines = [[name, json.dumps(value)] for name, value in row["facts"].items()]
            parts.append(f"{row['row']}\n\n{table(['', ''], lines)}")
    return "\n".join(parts)


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    peer = {}
    with contextlib.suppress(PackageNotFoundError):
        peer = {"llama-cpp-python": version("llama-cpp-python")}
    return {
        "machine": f"{platform.machine()}, {runtime.isa()}, {runtime.usable_cores()} cores",
        "versions": {"pronk": pronk.__version__, **peer},
        "threads": args.threads,
        "model": args.name,
    }


def save(path: Path, shared: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**shared, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{name} {number}" for name, number in shared["versions"].items())
    head = f"{shared['model']}; {shared['machine']}, {shared['threads']} threads; {versions}.\n\n"
    path.with_suffix(".md").write_text(head + tables(rows), encoding="utf-8")


def earlier(path: Path, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run. Exits where they were measured in other circumstances."""
    if not path.exists():
        return []
    facts = json.loads(path.read_text(encoding="utf-8"))
    for name, value in shared.items():
        if facts[name] != value:
            raise SystemExit(f"{path} holds rows with {name} {facts[name]}, here it is {value}; choose another --json")
    return list(facts["rows"])


def all_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    ours = {"soak": soak_row, "overload": overload_row, "hostile": hostile_row}
    for name in args.rows:
        if name == "load":
            yield from load_rows(args)
        else:
            yield ours[name](args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="default: all of them")
    parser.add_argument("--clients", help="for load; default: 1,4,16,64")
    parser.add_argument("--rounds", type=int, help="for load; default: 3")
    parser.add_argument("--minutes", type=float, help="for soak; default: 10")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", help="random:SHAPE:TYPE, or a GGUF; default: random:llama-3.2-1b:Q4_K_M")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/serving.json")
    parser.add_argument("--quick", action="store_true", help="the built-in model, a few requests: tries the script")
    args = parser.parse_args()
    args.rows = args.rows.split(",")
    for name in args.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name!r}, expected some of {', '.join(ROWS)}")
    quick = args.quick
    args.clients = [int(n) for n in (args.clients or ("1,4" if quick else "1,4,16,64")).split(",")]
    args.rounds = args.rounds or (1 if quick else 3)
    args.minutes = args.minutes or (0.05 if quick else 10.0)
    args.soak_clients, args.attacks, args.longest = (8, 24, 64) if quick else (64, 200, 512)
    args.hostile_rounds = 2 if quick else 5
    args.model = args.model or ("cria" if quick else "random:llama-3.2-1b:Q4_K_M")
    args.json = args.json or (CACHE / "quick-serving.json" if quick else HERE / "results" / "serving.json")
    return args


def main() -> None:
    args = parse()
    make_file(args)
    shared = circumstances(args)
    before = [] if args.quick else earlier(args.json, shared)
    rows: list[dict[str, Any]] = []
    for row in all_rows(args):
        rows.append(row)
        known = {(r["row"], r["key"]): r for r in [*before, *rows]}
        save(args.json, shared, list(known.values()))
        print(tables([row]), file=sys.stderr)
    print(tables(rows), end="")


if __name__ == "__main__":
    main()
