"""pronk chat: interactive on a terminal; with -p, or standard input that is no terminal, one answer."""

from __future__ import annotations

import argparse
import sys

from pronk.cli import options
from pronk.errors import RequestError

FORMATS = ("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "template", "plain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("-p", "--prompt", help="answer this and exit")
    parser.add_argument("--system", help="the system prompt")
    parser.add_argument(
        "--chat-format", choices=FORMATS,
        help="default: the model's own; template runs its Jinja template, plain continues text as a base model does",
    )  # fmt: skip
    options.add_sampling(parser)
    options.add_runtime(parser)
    options.add_speculation(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.cli.chat_session import ChatSession

    prompt = options.read_prompt(args)
    llama = options.load_model(args, chat_format=args.chat_format)
    session = ChatSession(system=args.system, sampling=options.sampling_options(args))
    with llama:
        if prompt is None:
            from pronk.cli import chat_terminal

            return chat_terminal.run(llama, session)
        if not prompt.strip():
            raise RequestError("the prompt is empty; give one with -p or on standard input")
        session.ask(prompt.strip())
        if args.json:
            result = llama.chat(session.prompt(), **session.sampling)
            options.print_json(result.to_json())
            return 0
        options.write_stream(llama.chat(session.prompt(), stream=True, **session.sampling))
        sys.stdout.write("\n")
    return 0
