"""Chat answers that go on where they stopped: continue_final_message, as the chat page uses it."""

from __future__ import annotations

from typing import Any

import pytest

from support.serving import Running

QUESTION = {"role": "user", "content": "Tell me a story about a llama called Pip and a red kettle."}


def ask(server: Running, *messages: dict[str, Any], **fields: Any) -> Any:
    return server.post("/v1/chat/completions", {"messages": list(messages), "temperature": 0, **fields})


def test_answer_goes_on_as_if_it_had_never_stopped(server: Running) -> None:
    def text(*messages: dict[str, Any], **fields: Any) -> str:
        return ask(server, *messages, **fields).json["choices"][0]["message"]["content"]

    whole = text(QUESTION, max_tokens=24)
    begun = text(QUESTION, max_tokens=10)
    rest = text(
        QUESTION, {"role": "assistant", "content": begun},
        max_tokens=14, continue_final_message=True, add_generation_prompt=False,
    )  # fmt: skip
    assert begun + rest == whole


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([QUESTION], {"continue_final_message": True}, "continue_final_message"),
        ([QUESTION], {"add_generation_prompt": False}, "add_generation_prompt"),
        (
            [QUESTION, {"role": "assistant", "content": "Once"}],
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
    ],
)
def test_what_cannot_go_on_is_refused_by_name(
    server: Running, messages: list[dict[str, Any]], fields: dict[str, Any], param: str
) -> None:
    answer = ask(server, *messages, **fields)
    assert answer.status == 400
    assert answer.error["param"] == param
