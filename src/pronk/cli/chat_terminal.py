"""The interactive chat: editing and history (prompt_toolkit), Markdown (rich), Ctrl-C stops the answer only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.text import Text

from pronk.cli.chat_session import COMMANDS, ChatSession, Leave
from pronk.cli.markdown_stream import MarkdownStream
from pronk.errors import PronkError

if TYPE_CHECKING:
    from pronk.api import ChatResult, Llama


def run(llama: Llama, session: ChatSession, console: Console | None = None) -> int:
    """Ask and answer until /exit or Ctrl-D."""
    console = console or Console(highlight=False)
    console.print(
        Text(f"{llama.name}: /help for commands, Alt-Enter for a new line, Ctrl-C stops an answer", style="dim")
    )
    prompt: PromptSession[str] = PromptSession(
        history=_history(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=WordCompleter([c.split()[0] for c in COMMANDS], sentence=True),
        key_bindings=_keys(),
        multiline=False,
    )
    while True:
        try:
            line = prompt.prompt(HTML("<b>&gt; </b>")).strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return 0
        try:
            if line == "/again":
                line = session.last_question()
            if line.startswith("/"):
                console.print(Text(session.command(line), style="dim"))
            elif line:
                _answer(llama, session, line, console)
        except Leave:
            return 0
        except PronkError as error:
            console.print(Text(str(error), style="red"))


def _answer(llama: Llama, session: ChatSession, question: str, console: Console) -> None:
    """Stream one answer. Stopped by Ctrl-C it is kept as far as it came; failed, the question is taken back."""
    session.ask(question)
    try:
        stream = llama.chat(session.prompt(), stream=True, **session.sampling)
        with _no_echo(), MarkdownStream(console) as markdown:
            try:
                for piece in stream:
                    markdown.feed(piece.text)
            except KeyboardInterrupt:
                stream.close()
    except BaseException:
        session.take_back()
        raise
    result = stream.result
    session.answer(result.message)
    console.print(Text(summary(result), style="dim"))


@contextmanager
def _no_echo() -> Iterator[None]:
    """Keys typed meanwhile, and the ^C of Ctrl-C, would be drawn into the answer; they still reach the next prompt."""
    try:
        import termios
    except ImportError:  # Windows
        termios = None  # type: ignore[assignment]
    if termios is None or not sys.stdin.isatty():
        yield
        return
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(keys, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def summary(result: ChatResult) -> str:
    """ "42 tokens, 31.5 tokens/s, first after 0.12 s", how guessing went, and why it ended if not by itself."""
    usage, timings = result.usage, result.timings
    parts = [
        f"{usage.completion_tokens} tokens",
        f"{timings.decode_tokens_per_second:.1f} tokens/s",
        f"first after {timings.first_token_seconds:.2f} s",
    ]
    if timings.drafted_tokens:
        parts.append(f"{timings.accepted_tokens} of {timings.drafted_tokens} guesses right")
    reasons = {"length": "stopped at max_tokens", "context": "the context is full: /reset", "cancelled": "stopped"}
    if result.finish_reason in reasons:
        parts.append(reasons[result.finish_reason])
    return ", ".join(parts)


def _history() -> History:
    """Kept between runs where the state directory can be written, else for this run."""
    root = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pronk"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "history").open("a"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(root / "history"))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
