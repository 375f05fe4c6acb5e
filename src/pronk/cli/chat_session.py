"""A conversation at the keyboard, without the keyboard: messages, settings, and the slash commands over them.

`chat_terminal.py` draws; this decides. A command returns the line to show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pronk.errors import RequestError
from pronk.text.messages import Message

# What /set takes, with the type of its value.
SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "max_tokens": int,
    "seed": int,
}

COMMANDS = {
    "/help": "this list",
    "/system [TEXT]": "set the system prompt, or show it; starts the conversation anew",
    "/reset": "forget the conversation, keep the settings",
    "/again": "answer the last question once more",
    "/save FILE": "write the conversation to a JSON file",
    "/load FILE": "read one back",
    "/set [NAME VALUE]": f"show or change a setting: {', '.join(SETTINGS)}",
    "/exit": "leave (so does Ctrl-D)",
}


class Leave(Exception):
    """/exit."""


@dataclass
class ChatSession:
    """Mutable: the conversation so far and how to sample the next answer."""

    system: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)

    def prompt(self) -> list[Message]:
        """What the model is given: the system prompt, if any, then the conversation."""
        head = [Message("system", self.system)] if self.system else []
        return [*head, *self.messages]

    def ask(self, text: str) -> None:
        self.messages.append(Message("user", text))

    def answer(self, message: Message) -> None:
        self.messages.append(message)

    def take_back(self) -> None:
        """Drop a question that got no answer, so that the roles still alternate."""
        if self.messages and self.messages[-1].role == "user":
            self.messages.pop()

    def last_question(self) -> str:
        """Take back the last question and its answer, and return the question."""
        while self.messages:
            message = self.messages.pop()
            if message.role == "user":
                return message.content
        raise RequestError("there is no question yet to answer again")

    def command(self, line: str) -> str:
        """Run one slash command. Raises RequestError for a bad one and Leave for /exit."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        handlers: dict[str, Callable[[str], str]] = {
            "/help": lambda _: help_text(),
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
            "/set": self._set,
            "/exit": _leave,
            "/quit": _leave,
        }
        if name not in handlers:
            raise RequestError(f"unknown command {name}; /help lists them")
        return handlers[name](rest)

    def _system(self, text: str) -> str:
        if not text:
            return self.system or "no system prompt"
        self.system = text
        self.messages.clear()
        return "system prompt set; the conversation starts anew"

    def _reset(self, _: str) -> str:
        self.messages.clear()
        return "forgotten"

    def _save(self, name: str) -> str:
        path = _path(name, "/save")
        data = {"system": self.system, "messages": [{"role": m.role, "content": m.content} for m in self.messages]}
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise RequestError(f"cannot write {path}: {error.strerror}") from None
        return f"{len(self.messages)} messages written to {path}"

    def _load(self, name: str) -> str:
        path = _path(name, "/load")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            messages = [Message(m["role"], m["content"]) for m in data["messages"]]
            system = data["system"]
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{path} is no conversation that /save wrote") from None
        self.system, self.messages = system, messages
        return f"{len(messages)} messages read from {path}"

    def _set(self, rest: str) -> str:
        if not rest:
            return ", ".join(f"{k} {v}" for k, v in self.sampling.items()) or "the model's own settings"
        name, _, value = rest.partition(" ")
        if name not in SETTINGS:
            raise RequestError(f"unknown setting {name!r}, expected one of {', '.join(SETTINGS)}")
        from pronk.engine.sampling import SamplingParams

        try:
            chosen = {**self.sampling, name: SETTINGS[name](value)}
        except ValueError:
            raise RequestError(f"{name} takes a number, found {value!r}") from None
        SamplingParams(**chosen)  # raises RequestError, and leaves the old value, when out of range
        self.sampling = chosen
        return f"{name} {chosen[name]}"


def help_text() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(f"{command:<{width}}  {what}" for command, what in COMMANDS.items())


def _leave(_: str) -> str:
    raise Leave


def _path(name: str, command: str) -> Path:
    if not name:
        raise RequestError(f"{command} needs a file name")
    return Path(name).expanduser()
