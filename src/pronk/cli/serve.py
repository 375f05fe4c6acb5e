"""pronk serve: models over HTTP, with OpenAI's API, TGI's, and a chat page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pronk.cli import options
from pronk.cli.chat import FORMATS
from pronk.errors import RequestError

if TYPE_CHECKING:
    from pronk.api import Llama
    from pronk.server.settings import ServerSettings

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", default=[options.DEFAULT_MODEL], metavar="MODEL",
        help="as for the other verbs; NAME=MODEL serves it under another name; several are served together",
    )  # fmt: skip
    where = parser.add_argument_group("where, and to whom")
    where.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    where.add_argument("--port", type=options.natural, default=8000, help="default: 8000; 0 takes a free one")
    where.add_argument("--api-key", action="append", default=[], metavar="KEY", help="may be given several times")
    where.add_argument("--api-key-file", type=Path, metavar="FILE", help="a key's SHA-256 on each line")
    where.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="an origin whose pages may ask, or * for all; may be given several times; default: none",
    )  # fmt: skip
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-sequences", type=options.positive, default=16, help="requests at once; default: 16")
    limits.add_argument("--max-queue", type=options.natural, default=256, help="requests that wait; default: 256")
    limits.add_argument("--max-body", type=options.positive, default=16, metavar="MIB", help="default: 16")
    limits.add_argument("--max-n", type=options.positive, default=16, help="n and best_of at most; default: 16")
    limits.add_argument(
        "--request-timeout", type=_seconds, metavar="SECONDS", help="a longer answer ends there; default: none does"
    )
    limits.add_argument(
        "--drain-timeout", type=_seconds, default=30.0, metavar="SECONDS",
        help="for answers under way when the server is told to stop; default: 30",
    )  # fmt: skip
    limits.add_argument(
        "--stall-timeout", type=_seconds, default=2.0, metavar="SECONDS",
        help="/health/ready fails while a step gets no further for longer; default: 2",
    )  # fmt: skip
    limits.add_argument(
        "--overflow", choices=("refuse", "slide"), default="refuse",
        help="an answer that fills the context ends (refuse, default) or forgets its oldest tokens (slide)",
    )  # fmt: skip
    parser.add_argument("--chat-format", choices=FORMATS, help="default: each model's own")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument(
        "--otlp-endpoint", metavar="URL", help="an OpenTelemetry collector (OTLP over HTTP) that traces are sent to"
    )
    options.add_runtime(parser)
    options.add_speculation(parser)
    options.add_json(parser)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from 0 on")
    return value


def run(args: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from pronk.server import lifecycle, logs, traces
    from pronk.server.state import ServerState, with_adapters

    settings = _settings(args)
    specs = _named(args.models)
    sock = lifecycle.bind(settings.host, settings.port)  # a port that is taken is said before a model is loaded
    with sock, ExitStack() as stack:
        traced = stack.enter_context(traces.exported(args.otlp_endpoint))
        models = {}
        for name, spec in specs:
            llama = stack.enter_context(_load(args, spec))
            for served in with_adapters(name or llama.name, llama):
                if served.name in models:
                    raise RequestError(f"two models would be called {served.name!r}; write NAME=MODEL for one of them")
                models[served.name] = served
        logs.set_up(settings.log_json)
        return lifecycle.serve(
            ServerState(settings, models, traces=traced), sock, lambda: _say(args, lifecycle.url(sock), list(models))
        )  # fmt: skip


def _settings(args: argparse.Namespace) -> ServerSettings:
    from pronk.server.settings import HashedKey, ServerSettings, read_keys

    keys = tuple(HashedKey.of(key) for key in args.api_key)
    if args.api_key_file:
        keys += read_keys(args.api_key_file)
    return ServerSettings(
        host=args.host,
        port=args.port,
        keys=keys,
        cors_origins=tuple(args.cors_origin),
        max_body_bytes=args.max_body * _MIB,
        max_n=args.max_n,
        max_queue=args.max_queue,
        request_seconds=args.request_timeout,
        drain_seconds=args.drain_timeout,
        stall_seconds=args.stall_timeout,
        log_json=args.log_format == "json",
        overflow=args.overflow,
    )


def _named(models: list[str]) -> list[tuple[str | None, str]]:
    """(the name to serve it under, MODEL). A path with = in it is that path."""
    pairs: list[tuple[str | None, str]] = []
    for text in models:
        name, equals, spec = text.partition("=")
        if not equals or Path(text).exists():
            pairs.append((None, text))
        elif name and spec:
            pairs.append((name, spec))
        else:
            raise RequestError(f"{text!r} is no NAME=MODEL; write both sides")
    return pairs


def _load(args: argparse.Namespace, spec: str) -> Llama:
    one = argparse.Namespace(**{**vars(args), "model": spec})
    return options.load_model(
        one, several_adapters=True, chat_format=args.chat_format, max_sequences=args.max_sequences
    )


def _say(args: argparse.Namespace, url: str, names: list[str]) -> None:
    """The one line that says it is ready."""
    if args.json:
        facts: dict[str, Any] = {"url": url, "models": names}
        options.print_json(facts)
    else:
        print(f"pronk serves {', '.join(names)} at {url}")
    sys.stdout.flush()
