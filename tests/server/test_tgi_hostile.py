"""Bodies that nobody would write, to all routes that are not OpenAI's: each is answered or refused, never a failure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pronk
from pronk.server.llama_server.fields import CompletionRequest
from pronk.server.tgi.schemas import GenerateParameters
from support.serving import Running, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with pronk.load("cria", context=64) as llama, serving(llama) as running:
        yield running


NUMBERS = st.one_of(st.integers(-3, 5), st.sampled_from([0.5, 1e400, -1e-300, 2**63, 2**64, -(2**70), 1e15]))
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "a", "<|eot_id|>", "\ud800", "\x00", "é" * 99])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
GRAMMARS = st.fixed_dictionaries(
    {"type": st.sampled_from(["json", "regex", "json_schema"]), "value": VALUES | st.sampled_from(["a+", "(", "{}"])}
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": VALUES}), max_size=2)


def fields(names: Collection[str], values: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[dict[str, Any]]:
    """A good body's few changes: mostly of the right kind."""
    return st.dictionaries(st.sampled_from(sorted(names)), NUMBERS | st.booleans() | values, max_size=2)


def with_fields(good: dict[str, Any], changes: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return changes.map(lambda changed: {**good, **changed})


PARAMETERS = with_fields({"max_new_tokens": 2}, fields({*GenerateParameters.model_fields, "other"}, VALUES | GRAMMARS))
GENERATE = st.fixed_dictionaries({"inputs": st.just("Hi")}, optional={"parameters": PARAMETERS}) | with_fields(
    {"inputs": "Hi", "parameters": {"max_new_tokens": 2}}, fields({"inputs", "parameters", "stream", "other"})
)
CHAT = with_fields(
    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}, fields({"messages", "tools", "stop"}, MESSAGES)
)
COMPLETION = with_fields({"prompt": "Hi", "n_predict": 2}, fields({*CompletionRequest.model_fields, "other"}))
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "/": GENERATE,
    "/generate": GENERATE,
    "/generate_stream": GENERATE,
    "/invocations": GENERATE | CHAT | with_fields({"prompt": "Hi", "max_tokens": 2}, fields({"prompt", "seed"})),
    "/vertex": st.fixed_dictionaries({"instances": st.lists(GENERATE | CHAT, max_size=2)}),
    "/tokenize": with_fields({"inputs": "Hi"}, fields({"inputs", "parameters"}))
    | with_fields({"content": "Hi"}, fields({"content", "with_pieces", "add_special", "parse_special"})),
    "/chat_tokenize": CHAT,
    "/detokenize": st.fixed_dictionaries({"tokens": st.lists(SCALARS)}),
    "/apply-template": with_fields({"messages": [{"role": "user", "content": "Hi"}]}, fields({"messages", "tools"})),
    "/completion": COMPLETION,
}


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_body_is_answered_or_refused(server: Running, path: str, data: st.DataObject) -> None:
    body = data.draw(BODIES[path])
    answer = server.post(path, json.dumps(body).encode())
    assert answer.status in (200, 400, 404, 422), (body, answer.body)
    if answer.status != 200:
        error = answer.json["error"]
        assert "\n" not in (error if isinstance(error, str) else error["message"])
