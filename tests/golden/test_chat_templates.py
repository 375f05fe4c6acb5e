"""Jinja templates run as transformers runs them: the same text, and the same ids where nobody forges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pronk.text.chat import chat_format
from pronk.text.jinja_format import JinjaFormat, template_messages, template_tool
from pronk.text.messages import Message, Tool, ToolCall
from support.chat import llama3_tokenizer

WEATHER = Tool(
    "get_weather", "Weather <b>now</b> & 'later' 北京", {"type": "object", "properties": {"city": {"type": "string"}}}
)
TALK = (
    Message("system", " Be kind. "),
    Message("user", "Hi 🦙\n"),
    Message("assistant", "Hello\n<think>x</think> y"),
    Message("user", "> quoted\nWeather in Oslo?"),
)
CALLED = (
    *TALK,
    Message("assistant", "", (ToolCall("c1", "get_weather", {"city": 'Land\'s "End" é', "n": [1, None]}),)),
    Message("tool", "3 degrees", (), "c1"),
)
FILES = (
    "meta-llama-Llama-3.1-8B-Instruct.jinja",
    "meta-llama-Llama-3.2-3B-Instruct.jinja",
    "meta-llama-Llama-3.3-70B-Instruct.jinja",
)

# What templates in the wild use, each on its own.
FEATURES = {
    "namespace": "{% set ns = namespace(n=0, t='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.t = ns.t ~ m.role ~ ns.n %}{% endfor %}{{ ns.t }}|{{ ns.n }}",
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"
    "{{ loop.revindex0 }}"
    "{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if not loop.last }}{% endfor %}",
    "filtered loop": "{% for m in messages if m.role == 'user' %}{{ m.content | trim }}{% else %}none{% endfor %}",
    "macro": "{% macro turn(m, end='!') %}{{ m['role'] }}: {{ m['content'] }}{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m, end='?') }}{% endfor %}{{ turn(messages[0]) }}",
    "call": "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}inside{% endcall %}",
    "break": "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{% if loop.first %}{% continue %}"
    "{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "tojson": "{{ messages[1:] | tojson }}{{ messages[0] | tojson(indent=2) }}{{ tools | tojson(sort_keys=true) }}"
    "{{ messages | tojson(separators=(',', ':'), ensure_ascii=true) }}",
    "filters": "{{ messages | map(attribute='role') | list | join(', ') }}"
    "{{ messages | selectattr('role', 'equalto', 'user')"
    " | list | length }}{{ messages[0].content | upper | replace('KIND', 'nice') | indent(4) }}"
    "{{ [3, 1, 2] | sort | first }}"
    "{{ [1, 2, 3] | sum }}{{ {'b': 1, 'a': 2} | dictsort }}{{ 'x' | default('y') }}{{ nothing | default('y', true) }}"
    "{{ messages | groupby('role') | length }}{{ '%s-%03d' | format('a', 7) }}{{ [1, 2, 3] | batch(2) | list }}",
    "methods": "{{ messages[2].content.split('</think>')[-1].lstrip('\\n') }}"
    "{{ messages[0].content.strip().startswith('Be') }}"
    "{{ messages[0].items() | list }}{{ messages[0].get('x', 'y') }}{{ ', '.join(['a', 'b']) }}"
    "{{ '+'.join(messages | map(attribute='role')) }}"
    "{{ '{} {n}'.format(1, n=2) }}"
    "{{ 'a-b'.replace('-', '+').title() }}{{ 'abc'[::-1] }}{{ 'é'.upper() }}",
    "arithmetic": "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 8 }}{{ 1.5 * 2 }}{{ '-' * 10 }}{{ [0] * 3 }}{{ 7 - 2.5 }}"
    "{{ 1 / 4 }}{{ -3 }}"
    "{{ '%d %s' % (1, 'x') }}{{ [1] + [2] }}{{ 'a' ~ 1 ~ none }}{{ (1, 2)[0] }}{{ 3 in [1, 3] }}",
    "set block": "{% set x %}{% for m in messages %}{{ m.role }} {% endfor %}{% endset %}{{ x | trim }}"
    "{{ x | length }}",
    "recursion": "{% for a in [[1, [2, 3]], 4] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}"
    "{% endif %}{% endfor %}",
    "whitespace": "\n{% if true %}\n  {% for m in messages %}\n    {{- m.role }}\n  {% endfor %}\n{% endif %}"
    "\n{# c #}\n  end",
    "tests": "{{ tools is none }}{{ messages is iterable }}{{ messages[0].x is defined }}{{ messages[0] is mapping }}"
    "{{ messages[0].content is string }}{{ range(3) | list }}{{ dict(a=1) }}{{ namespace is defined }}",
    "special tokens": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}"
    "<|end_header_id|>\n\n{{ m.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|start_header_id|>{% endif %}",
    "raw": "{% raw %}{{ x }}{% endraw %}{{ '{{' }}",
    "undefined": "{{ messages[0].nothing }}{{ nothing }}{% if custom is not defined %}ok{% endif %}",
}


def transformers_text(template: str, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> str:
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    named: dict[str, Any] = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    offered = [template_tool(tool) for tool in tools] or None
    chat = [template_messages(messages)]
    return render(chat, tools=offered, chat_template=template, add_generation_prompt=True, **named)[0][0]


def check(data: Path, template: str, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> None:
    tokenizer = llama3_tokenizer(data)
    format_ = chat_format(tokenizer, template, "template")
    assert isinstance(format_, JinjaFormat)
    expected = transformers_text(template, messages, tools)
    assert format_.render(messages, tools) == expected
    ids = tokenizer.encode(expected, bos=False, special=True)
    assert format_.encode(messages, tools) == [*([128000] if ids[:1] != [128000] else []), *ids]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[1:2], CALLED], ids=["system", "talk", "one", "called"])
@pytest.mark.parametrize("tools", [(), (WEATHER,)], ids=["no tools", "tools"])
def test_llamas_templates(shared_data: Path, file: str, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> None:
    check(shared_data, (shared_data / "chat" / file).read_text(encoding="utf-8"), messages, tools)


@pytest.mark.parametrize("feature", FEATURES)
def test_what_templates_use(shared_data: Path, feature: str) -> None:
    check(shared_data, FEATURES[feature], TALK, ())
    check(shared_data, FEATURES[feature], CALLED, (WEATHER,))
