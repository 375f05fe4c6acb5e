"""The interactive chat: its commands, its Markdown, and a whole conversation through a terminal's input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

import pronk
from pronk.api import Llama
from pronk.cli import chat_terminal
from pronk.cli.chat_session import COMMANDS, ChatSession, Leave
from pronk.cli.markdown_stream import MarkdownStream, split_blocks
from pronk.errors import RequestError
from pronk.text.messages import Message


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with pronk.load("cria") as model:
        yield model


def talked() -> ChatSession:
    session = ChatSession(system="Be brief.")
    session.ask("one")
    session.answer(Message("assistant", "eins"))
    return session


def test_help_lists_every_command() -> None:
    assert all(command in ChatSession().command("/help") for command in COMMANDS)


def test_save_and_load(tmp_path: Path) -> None:
    session = talked()
    session.command(f"/save {tmp_path / 'chat.json'}")
    other = ChatSession()
    other.command(f"/load {tmp_path / 'chat.json'}")
    assert other.prompt() == session.prompt()
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_reset_keeps_the_system_prompt_and_system_restarts() -> None:
    session = talked()
    session.command("/reset")
    assert session.prompt() == [Message("system", "Be brief.")]
    session.ask("two")
    session.command("/system Be long.")
    assert session.prompt() == [Message("system", "Be long.")]
    assert session.command("/system") == "Be long."


def test_again_takes_the_last_turn_back() -> None:
    session = talked()
    assert session.last_question() == "one"
    assert session.messages == []
    with pytest.raises(RequestError, match="no question"):
        session.last_question()


def test_set() -> None:
    session = ChatSession()
    assert session.command("/set temperature 0.25") == "temperature 0.25"
    assert session.sampling == {"temperature": 0.25}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/nonsense", "/help"),
        ("/set warmth 3", "temperature"),
        ("/set temperature hot", "'hot'"),
        ("/set temperature -1", "at least 0"),
        ("/save", "file name"),
        ("/load no-such-file", "No such file"),
    ],
)
def test_bad_commands_say_what_is_wrong_and_change_nothing(line: str, said: str) -> None:
    session = talked()
    before = (session.prompt(), dict(session.sampling))
    with pytest.raises(RequestError, match=said):
        session.command(line)
    assert (session.prompt(), session.sampling) == before


@pytest.mark.parametrize("content", ["not json", "{}", '{"system": null, "messages": [1]}', "[]"])
def test_load_refuses_other_files(content: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(RequestError, match="no conversation"):
        ChatSession().command(f"/load {tmp_path / 'x'}")


def test_exit() -> None:
    with pytest.raises(Leave):
        ChatSession().command("/exit")


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("one", ""),
        ("one\n\n", ""),
        ("one\n\ntwo", "one\n"),
        ("- a\n\n- b", ""),
        ("- a\n\n- b\n\nend", "- a\n\n- b\n"),
        ("```\na\n\nb\n", ""),
        ("```\na\n\nb\n```\n\nend", "```\na\n\nb\n```\n"),
        ("1. a\n\n2. b\n\n   more\n\nend", "1. a\n\n2. b\n\n   more\n"),
    ],
)
def test_blocks_are_finished_when_nothing_can_change_them(text: str, done: str) -> None:
    assert split_blocks(text)[0].rstrip("\n") == done.rstrip("\n")
    assert "".join(split_blocks(text)) == text


def test_streamed_markdown_ends_as_if_printed_at_once() -> None:
    text = "# Title\n\nA *word*.\n\n- one\n- two\n\n```python\nx = 1\n\ny = 2\n```\n\nThe end.\n"

    def draw(pieces: list[str]) -> str:
        console = Console(file=io.StringIO(), width=60, height=40, force_terminal=False)
        with MarkdownStream(console) as stream:
            for piece in pieces:
                stream.feed(piece)
        return console.file.getvalue()  # type: ignore[attr-defined]

    lines = [line.strip() for line in draw(list(text)).splitlines() if line.strip()]
    assert lines == [line.strip() for line in draw([text]).splitlines() if line.strip()]
    assert [line for line in lines if "=" in line] == ["x = 1", "y = 2"]
    assert lines[-1] == "The end."


def converse(llama: Llama, typed: str, session: ChatSession) -> str:
    """What the terminal shows when a person types `typed`."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(typed)
        assert chat_terminal.run(llama, session, console) == 0
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_conversation(llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    session = ChatSession(sampling={"temperature": 0, "max_tokens": 5})
    shown = converse(llama, "hello\r/set top_k 3\r/oops\rhow are you?\r/exit\r", session)
    assert [m.role for m in session.messages] == ["user", "assistant", "user", "assistant"]
    assert session.messages[2].content == "how are you?"
    assert shown.count("5 tokens, ") == 2
    assert "stopped at max_tokens" in shown
    assert "top_k 3" in shown
    assert "unknown command /oops" in shown
    assert "how are you?" in (tmp_path / "pronk" / "history").read_text()


def test_it_remembers_what_was_said(llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    session = ChatSession(sampling={"temperature": 0})
    converse(llama, "My name is Bruno.\rWhat is my name?\r/exit\r", session)
    assert "Bruno" in session.messages[-1].content


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fed = MarkdownStream.feed

    def interrupt(self: MarkdownStream, text: str) -> None:
        fed(self, text)
        monkeypatch.setattr(MarkdownStream, "feed", fed)
        raise KeyboardInterrupt

    monkeypatch.setattr(MarkdownStream, "feed", interrupt)
    session = ChatSession(sampling={"temperature": 0, "max_tokens": 20})
    shown = converse(llama, "Hello!\rTell me a story.\r\x04", session)
    assert [m.role for m in session.messages] == ["user", "assistant", "user", "assistant"]
    assert ", stopped\n" in shown
    assert "20 tokens" in shown


def test_a_question_that_fails_is_taken_back(llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    session = ChatSession(sampling={"temperature": 0, "max_tokens": 5})
    shown = converse(llama, "x y " * 2000 + "\rhello\r/exit\r", session)
    assert [m.content for m in session.messages if m.role == "user"] == ["hello"]
    assert "1024" in shown
