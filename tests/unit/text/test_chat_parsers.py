"""Answers read back: whole, id by id and cut anywhere, always with the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pronk.text.chat import chat_format
from pronk.text.messages import Answer, ChatFormat, Delta, Message, Tool, ToolCall
from pronk.text.tokenizer import Tokenizer
from support.chat import llama3_tokenizer, plain, read_answer, tiktoken_ids

SEARCH = Tool("brave_search")
CODE = Tool("code_interpreter")
WEATHER = Tool("get_weather", "Weather in a city", {"type": "object", "properties": {"city": {"type": "string"}}})
SONGS = Tool("trending_songs", "Songs", {"type": "object", "properties": {}})
DOTTED = Tool("maps.route", "Route", {"type": "object", "properties": {}})
TOOLS = (SEARCH, Tool("wolfram_alpha"), CODE, WEATHER, SONGS, DOTTED)

Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def tokenizer(shared_data: Path) -> Tokenizer:
    return llama3_tokenizer(shared_data)


@pytest.fixture(scope="module")
def format_(tokenizer: Tokenizer) -> ChatFormat:
    return chat_format(tokenizer)


def read(format_: ChatFormat, data: Path, text: str, tools: tuple[Tool, ...] = TOOLS) -> Answer:
    """The answer of a model that wrote `text`, control tokens in it included: the same in three ways of arriving."""
    ids = tiktoken_ids(data, text)
    whole = read_answer(format_.parser(tools), [ids])
    single = read_answer(format_.parser(tools), [[token] for token in ids])
    halves = read_answer(format_.parser(tools), [ids[: len(ids) // 2], ids[len(ids) // 2 :]])
    for other in (single, halves):
        assert (other.content, plain(other.tool_calls)) == (whole.content, plain(whole.tool_calls))
    return whole


CALLS: dict[str, tuple[str, Calls]] = {
    # Meta's own pages
    "search": (
        '<|python_tag|>brave_search.call(query="latest price of 1oz gold")<|eom_id|>',
        [("brave_search", {"query": "latest price of 1oz gold"})],
    ),
    "code": (
        "<|python_tag|>print(1)\n\nprint('}')<|eom_id|>",
        [("code_interpreter", {"code": "print(1)\n\nprint('}')"})],
    ),
    "json": (
        '<|python_tag|>{\n    "type": "function",\n    "name": "trending_songs",\n    "parameters": {\n'
        '        "n": "10"\n    }\n}<|eom_id|>',
        [("trending_songs", {"n": "10"})],
    ),
    "tag": ('<function=trending_songs>{"n": 10}</function><|eot_id|>', [("trending_songs", {"n": 10})]),
    "pythonic": (
        "[get_weather(city='San Francisco', metric='celsius'), get_weather(city='Seattle')]<|eot_id|>",
        [("get_weather", {"city": "San Francisco", "metric": "celsius"}), ("get_weather", {"city": "Seattle"})],
    ),
    # What Meta's own parser gets wrong
    "nested tag JSON": (
        '<function=get_weather>{"city": {"name": "Oslo", "at": {"lat": 1}}, "l": [{}]}</function>',
        [("get_weather", {"city": {"name": "Oslo", "at": {"lat": 1}}, "l": [{}]})],
    ),
    "apostrophe in tag": (
        """<function=get_weather>{"city": "Land's End"}</function>""",
        [("get_weather", {"city": "Land's End"})],
    ),
    "escaped quotes in a query": (
        r'<|python_tag|>brave_search.call(query="who said \"I do\"?")',
        [("brave_search", {"query": 'who said "I do"?'})],
    ),
    "bare quotes in a query": (
        '<|python_tag|>brave_search.call(query="who said "I do (not)" first")<|eom_id|>',
        [("brave_search", {"query": 'who said "I do (not)" first'})],
    ),
    "parentheses in a query": (
        '<|python_tag|>wolfram_alpha.call(query="f(x) = (x+1)")',
        [("wolfram_alpha", {"query": "f(x) = (x+1)"})],
    ),
    # The rest of what a call may look like
    "no python tag": ('{"name": "get_weather", "parameters": {"city": "Oslo"}}', [("get_weather", {"city": "Oslo"})]),
    "arguments": ('{"name": "get_weather", "arguments": {"city": "Oslo"}}', [("get_weather", {"city": "Oslo"})]),
    "arguments as text": (
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}',
        [("get_weather", {"city": "Oslo"})],
    ),
    "openai": (
        '{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}',
        [("get_weather", {"city": "Oslo"})],
    ),
    "no parameters": ('{"type": "function", "name": "trending_songs"}', [("trending_songs", {})]),
    "null parameters": ('{"name": "trending_songs", "parameters": null}', [("trending_songs", {})]),
    "braces in strings": (
        '{"name": "get_weather", "parameters": {"city": "}{\\"]"}}',
        [("get_weather", {"city": '}{"]'})],
    ),
    "raw newline in JSON": (
        '{"name": "code_interpreter", "parameters": {"code": "a = 1\nprint(a)"}}',
        [("code_interpreter", {"code": "a = 1\nprint(a)"})],
    ),
    "several JSON calls": (
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}; '
        '{"name": "get_weather", "parameters": {"city": "Rome"}}\n',
        [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})],
    ),
    "several tags": (
        '<function=get_weather>{"city": "Oslo"}</function>\n<function=trending_songs></function>',
        [("get_weather", {"city": "Oslo"}), ("trending_songs", {})],
    ),
    "tag without its end": ('<function=get_weather>{"city": "Oslo"}</func', [("get_weather", {"city": "Oslo"})]),
    "closing tag in a string": (
        '<function=get_weather>{"city": "</function>"}</function>',
        [("get_weather", {"city": "</function>"})],
    ),
    "space first": ('\n {"name": "trending_songs", "parameters": {}}', [("trending_songs", {})]),
    "pythonic after the tag": ('<|python_tag|>[get_weather(city="Oslo")]', [("get_weather", {"city": "Oslo"})]),
    "pythonic literals": (
        "[get_weather(a=-1, b=2.5, c=True, d=None, e=[1, 'x', (2,)], f={'k': {'n': false}}, g=null, h=true, i=+3)]",
        [
            (
                "get_weather",
                {"a": -1, "b": 2.5, "c": True, "d": None, "e": [1, "x", [2]], "f": {"k": {"n": False}}}
                | {"g": None, "h": True, "i": 3},
            )
        ],
    ),
    "pythonic strings": (
        """[get_weather(city="Land's End"), get_weather(city='say "]"'), get_weather(city='it\\'s', re='\\d+')]""",
        [
            ("get_weather", {"city": "Land's End"}),
            ("get_weather", {"city": 'say "]"'}),
            ("get_weather", {"city": "it's", "re": r"\d+"}),
        ],
    ),
    "pythonic, no arguments": ("[trending_songs()]", [("trending_songs", {})]),
    "pythonic, dotted": (
        "[maps.route(to='x') , trending_songs( )]",
        [("maps.route", {"to": "x"}), ("trending_songs", {})],
    ),
    "built-in as JSON": (
        '<|python_tag|>{"name": "brave_search", "parameters": {"query": "gold"}}',
        [("brave_search", {"query": "gold"})],
    ),
    "built-in without the tag": ('brave_search.call(query="gold")', [("brave_search", {"query": "gold"})]),
    "code that looks like JSON": (
        '<|python_tag|>{"a": 1}.keys()',
        [("code_interpreter", {"code": '{"a": 1}.keys()'})],
    ),
    "code that looks pythonic": (
        "<|python_tag|>[x for x in (1, 2)]",
        [("code_interpreter", {"code": "[x for x in (1, 2)]"})],
    ),
    "half a surrogate": (
        '{"name": "get_weather", "parameters": {"city": "\\ud800!"}}',
        [("get_weather", {"city": "\ufffd!"})],
    ),
    "unicode": (
        '{"name": "get_weather", "parameters": {"city": "北京 🦙"}}',
        [("get_weather", {"city": "北京 🦙"})],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(format_: ChatFormat, shared_data: Path, name: str) -> None:
    text, calls = CALLS[name]
    answer = read(format_, shared_data, text)
    assert plain(answer.tool_calls) == calls
    assert answer.content == ""
    ids = [call.id for call in answer.tool_calls]
    assert len(set(ids)) == len(ids)


CONTENT = {
    "plain": "Llamas hum. 北京 🦙",
    "json for the user": '{"city": "Oslo", "people": [1, 2]}',
    "json with a name": '{"name": "Bob", "parameters": {"age": 3}}',
    "extra keys": '{"name": "get_weather", "parameters": {}, "note": "no call"}',
    "arguments are a list": '{"name": "get_weather", "parameters": [1]}',
    "no arguments": '{"name": "get_weather"}',
    "not a number": '{"name": "get_weather", "parameters": {"a": NaN}}',
    "infinity": '{"name": "get_weather", "parameters": {"a": 1e999}}',
    "long number": '{"name": "get_weather", "parameters": {"a": ' + "9" * 5000 + "}}",
    "json that breaks": '{"name": "get_weather", oops} and more',
    "json cut off": '{"name": "get_weather", "parameters": {"city": "Os',
    "deep json": '{"name": ' + "[" * 20000,
    "spaces around": "  \n {braces} \n ",
    "only spaces": " \n",
    "pythonic unknown": "[get_time(city='Oslo')]",
    "pythonic, one unknown": "[get_weather(city='Oslo'), get_time(city='Oslo')]",
    "positional": "[get_weather('Oslo')]",
    "not a literal": "[get_weather(city=open('/etc/passwd'))]",
    "stars": "[get_weather(**{'city': 'Oslo'})]",
    "attribute": "[get_weather(city=().__class__)]",
    "deep attributes": f"[trending_songs(), {'a.' * 2500}b()]",
    "deep signs": f"[get_weather(city={'-' * 50000}1)]",
    "deep lists": f"[get_weather(city={'[' * 5000}{']' * 5000})]",
    "null byte": "[get_weather(city='\0')]",
    "octal": "[get_weather(city=1or 2)]",
    "f-string": "[get_weather(city=f'{1}')]",
    "pythonic cut off": "[get_weather(city='Oslo'), get_wea",
    "pythonic apostrophe": "[get_weather(city='it's')]",
    "a list": "[1, 2, 3] is a list, [get_weather()] in it is text",
    "link": "[Oslo](https://oslo.example) is a city",
    "tag unknown": '<function=get_time>{"city": "Oslo"}</function>',
    "tag cut off": 'See: <function=get_weather>{"city": "Os',
    "tag broken": "<function=get_weather>{city: Oslo}</function>",
    "tag prefix": "a < b <func <functional <function=",
    "positional query": 'brave_search.call("gold")',
    "empty query": "brave_search.call()? I would call brave_search. call(",
    "unknown builtin": 'bing.call(query="gold")',
}


@pytest.mark.parametrize("name", CONTENT)
def test_what_is_no_call_is_content_as_written(format_: ChatFormat, shared_data: Path, name: str) -> None:
    answer = read(format_, shared_data, CONTENT[name])
    assert (answer.content, answer.tool_calls) == (CONTENT[name], ())


def test_content_before_and_after_calls(format_: ChatFormat, shared_data: Path) -> None:
    answer = read(format_, shared_data, 'Let me see.<|python_tag|>brave_search.call(query="x")<|eom_id|>')
    assert (answer.content, plain(answer.tool_calls)) == ("Let me see.", [("brave_search", {"query": "x"})])
    answer = read(format_, shared_data, "One: <function=trending_songs>{}</function> two < three.")
    assert (answer.content, plain(answer.tool_calls)) == ("One:  two < three.", [("trending_songs", {})])


def test_two_tags_are_two_pieces(format_: ChatFormat, shared_data: Path) -> None:
    answer = read(format_, shared_data, "<|python_tag|>a = 1<|python_tag|>b = 2")
    assert plain(answer.tool_calls) == [
        ("code_interpreter", {"code": "a = 1"}),
        ("code_interpreter", {"code": "b = 2"}),
    ]


def test_python_tag_counts_by_id_only(format_: ChatFormat, tokenizer: Tokenizer) -> None:
    text = '<|python_tag|>brave_search.call(query="x")'
    answer = read_answer(format_.parser(TOOLS), [tokenizer.encode(text, bos=False)])
    assert (answer.content, answer.tool_calls) == (text, ())


def test_without_tools_everything_is_text_and_nothing_waits(format_: ChatFormat, shared_data: Path) -> None:
    text = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
    assert read(format_, shared_data, text, ()).content == text
    assert read(format_, shared_data, "<|python_tag|>print(1)<|eom_id|>", ()) == Answer("print(1)")
    parser = format_.parser()
    for token in tiktoken_ids(shared_data, text):
        assert parser.feed([token]).content


def test_code_without_the_interpreter_is_content(format_: ChatFormat, shared_data: Path) -> None:
    assert read(format_, shared_data, "<|python_tag|>print(1)<|eom_id|>", (WEATHER,)) == Answer("print(1)")


def test_text_streams_as_soon_as_it_cannot_be_a_call(format_: ChatFormat, shared_data: Path) -> None:
    parser = format_.parser(TOOLS)
    assert parser.feed(tiktoken_ids(shared_data, "Sure")) == Delta("Sure")
    assert parser.feed(tiktoken_ids(shared_data, " <func")) == Delta(" ")
    assert parser.feed(tiktoken_ids(shared_data, "y>")) == Delta("<funcy>")
    parser = format_.parser(TOOLS)
    assert parser.feed(tiktoken_ids(shared_data, '{"city": "Os')) == Delta('{"city": "Os')


def test_a_call_comes_out_when_it_is_whole(format_: ChatFormat, shared_data: Path) -> None:
    for text in ('{"name": "trending_songs", "parameters": {}}', "[trending_songs()]"):
        parser = format_.parser(TOOLS)
        *first, last = tiktoken_ids(shared_data, text)
        assert parser.feed(first) == Delta()
        assert plain(parser.feed([last]).tool_calls) == [("trending_songs", {})]
        assert parser.finish() == Delta()


def test_characters_stay_whole(format_: ChatFormat, shared_data: Path) -> None:
    parser = format_.parser(TOOLS)
    pieces = [parser.feed([token]).content for token in tiktoken_ids(shared_data, "🦙 北京 ǅ")]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + parser.finish().content == "🦙 北京 ǅ"
    assert format_.parser().feed(tiktoken_ids(shared_data, "🦙")[:1]) == Delta()


FRAGMENTS = st.sampled_from(
    [
        "<|python_tag|>", "<|eom_id|>", "{", "}", "[", "]", "(", ")", '"', "'", "\\", ":", ",", ";", "=", " ", "\n",
        "<",
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}', '{"name": "x"', "[get_weather(city='Oslo')]",
        "[get_weather(", "get_weather", "trending_songs()", "<function=", "<function=get_weather>", "</function>",
        '{"a": "b"}', "brave_search.call(query=", 'brave_search.call(query="a")', "print(1)", "né 🦙", "true", "-1",
        "\\u12",
        '"parameters"', '"type": "function"',
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.data())
def test_how_an_answer_arrives_changes_nothing(
    format_: ChatFormat, shared_data: Path, text: str, data: st.DataObject
) -> None:
    ids = tiktoken_ids(shared_data, text)
    tools = data.draw(st.sampled_from([TOOLS, (WEATHER, SONGS), (SEARCH,), ()]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ids)))))
    chunks = [ids[start:end] for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    whole = read_answer(format_.parser(tools), [ids])
    for arriving in (chunks, [[token] for token in ids]):
        answer = read_answer(format_.parser(tools), arriving)
        assert answer.content == whole.content
        assert plain(answer.tool_calls) == plain(whole.tool_calls)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc \"'", max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["city", "when", "x_1"]), JSON_VALUES, max_size=3), min_size=1, max_size=3
    ),
    st.sampled_from(["json", "tag", "pythonic"]),
)
def test_calls_in_a_history_read_back_as_they_were(
    tokenizer: Tokenizer, arguments: list[dict[str, Any]], style: str
) -> None:
    format_ = chat_format(tokenizer, variant="llama3.1", tool_style=style)
    calls = tuple(ToolCall(f"c{i}", "get_weather", values) for i, values in enumerate(arguments))
    question = Message("user", "?")
    prompt = format_.encode([question, Message("assistant", "", calls)], [WEATHER])
    start = len(format_.encode([question], [WEATHER]))
    answer = read_answer(format_.parser([WEATHER]), [[token] for token in prompt[start:][:-4]])
    assert plain(answer.tool_calls) == [("get_weather", values) for values in arguments]
