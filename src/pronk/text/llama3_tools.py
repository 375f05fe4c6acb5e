"""How tools and calls are worded for Llama 3.x, as Meta's prompt pages show them.

Sources: llama-models `models/llama3_1/prompt_format.md`, `models/llama3_2/text_prompt_format.md`,
`models/llama3/prompt_templates/system_prompts.py`. One deliberate difference: Meta's generator keeps only a parameter's
name and description; here the JSON schema is written whole, because types and enums decide whether calls are right.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pronk.errors import ChatFormatError
from pronk.text.messages import Tool, ToolCall, dump_json

ToolStyle = Literal["json", "tag", "pythonic"]
TOOL_STYLES: tuple[ToolStyle, ...] = ("json", "tag", "pythonic")
CODE_INTERPRETER = "code_interpreter"
BUILTIN_TOOLS = (CODE_INTERPRETER, "brave_search", "wolfram_alpha")

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def is_builtin(tool: Tool) -> bool:
    """A built-in needs only its name; one that comes with parameters is the caller's own function."""
    return tool.name in BUILTIN_TOOLS and tool.parameters is None


def system_text(builtin: Sequence[Tool], environment: bool, today: str | None, instructions: str) -> str:
    """The system message that turns on Meta's tool environment, blank lines where their pages have them."""
    if not environment and today is None:
        return instructions
    searches = [tool.name for tool in builtin if tool.name != CODE_INTERPRETER]
    text = "Environment: ipython" if environment else ""
    if searches:
        text += f"\nTools: {', '.join(searches)}"
    if today is not None:
        if environment:
            text += "\n" if searches else "\n\n"
        text += f"Cutting Knowledge Date: December 2023\nToday Date: {today}"
    if instructions:
        text += f"\n\n{instructions}"
    # Their page for the code interpreter alone is the one without a newline at the end.
    return f"{text}\n" if searches or today is not None or instructions else text


def tools_text(style: ToolStyle, tools: Sequence[Tool]) -> str:
    """What the model is told about the caller's own functions."""
    if style == "json":
        listed = "".join(_layout({"type": "function", "function": _described(tool)}) + "\n" for tool in tools)
        return (
            "Answer the user's question by making use of the following functions if needed.\n"
            "If none of the function can be used, please say so.\n"
            f"Here is a list of functions in JSON format:\n{listed}\nReturn function calls in JSON format."
        )
    if style == "tag":
        listed = "".join(
            f"Use the function '{tool.name}' to '{tool.description}':\n{dump_json(_described(tool))}\n\n"
            for tool in tools
        )
        return f"You have access to the following functions:\n\n{listed}{_TAG_RULES}"
    return f"{_PYTHONIC_RULES}\n\n{_listed(tools)}"


def question_with_tools(tools: Sequence[Tool], question: str) -> str:
    """Llama 3.2's other place for pythonic tools: inside the user's message, around the question."""
    return (
        f"Questions: {question}\nHere is a list of functions in JSON format that you can invoke:\n{_listed(tools)}\n\n"
        "Should you decide to return the function call(s),Put it in the format of "
        "[func1(params_name=params_value, params_name2=params_value2...), func2(params)]\n\n"
        "NO other text MUST be included."
    )


def check_tools(style: ToolStyle, tools: Sequence[Tool]) -> None:
    """Raises ChatFormatError for a function that the style cannot describe or call, or one given twice."""
    seen: set[str] = set()
    for tool in tools:
        dump_json(_described(tool), what=f"tool {tool.name!r}")
        if tool.name in seen:
            raise ChatFormatError(f"two tools are called {tool.name!r}; give each its own name")
        seen.add(tool.name)
        if not tool.name or (style == "tag" and set(tool.name) & set("<>{}\n")):
            raise ChatFormatError(f"tool name {tool.name!r} cannot stand in a <function=...> tag; rename it")
        if style == "pythonic" and not _is_python_name(tool.name):
            raise ChatFormatError(
                f"tool name {tool.name!r} is no Python name, which pythonic calls need; rename it, or use "
                "tool_style='json'"
            )


def builtin_call_text(call: ToolCall) -> str:
    """A built-in call as the model writes it: code as it is, a search as `name.call(query="...")`."""
    key = "code" if call.name == CODE_INTERPRETER else "query"
    value = call.arguments.get(key)
    if not isinstance(value, str) or len(call.arguments) != 1:
        found = ", ".join(call.arguments) or "none"
        raise ChatFormatError(f"the call to {call.name!r} has arguments {found}; expected one string, {key!r}")
    return value if key == "code" else f"{call.name}.call(query={dump_json(value)})"


def calls_text(style: ToolStyle, calls: Sequence[ToolCall]) -> str:
    """Calls of the caller's own functions, as the model writes them."""
    if style == "json":
        return "; ".join(
            dump_json({"type": "function", "name": call.name, "parameters": dict(call.arguments)}, what="a call")
            for call in calls
        )
    if style == "tag":
        return "".join(
            f"<function={call.name}>{dump_json(dict(call.arguments), what='a call')}</function>" for call in calls
        )
    return f"[{', '.join(_pythonic(call) for call in calls)}]"


def _pythonic(call: ToolCall) -> str:
    dump_json(dict(call.arguments), what=f"the arguments of the call to {call.name!r}")
    for name in (call.name, *call.arguments):
        if not _is_python_name(name):
            raise ChatFormatError(f"{name!r} in the call to {call.name!r} is no Python name; use tool_style='json'")
    return f"{call.name}({', '.join(f'{key}={_python_literal(value)}' for key, value in call.arguments.items())})"


def _python_literal(value: object) -> str:
    """JSON values as Python writes them; strings in double quotes, as on Meta's page."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{dump_json(str(key))}: {_python_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_python_literal, value))}]"
    return dump_json(value)


def _is_python_name(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


def _described(tool: Tool) -> dict[str, Any]:
    parameters = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _listed(tools: Sequence[Tool]) -> str:
    return dump_json([_described(tool) for tool in tools], indent=4)


def _layout(value: object, indent: str = "") -> str:
    """JSON over several lines, lists of plain values on one: the layout of Meta's 3.1 page."""
    inner = indent + "    "
    if isinstance(value, Mapping) and value:
        items = [f"{inner}{dump_json(str(key))}: {_layout(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        items = [f"{inner}{_layout(item, inner)}" for item in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return dump_json(value)


_TAG_RULES = """\
Think very carefully before calling functions.
If you choose to call a function ONLY reply in the following format with no prefix or suffix:

<function=example_function_name>{"example_name": "example_value"}</function>

Reminder:
- If looking for real time information use relevant functions before falling back to brave_search
- Function calls MUST follow the specified format, start with <function= and end with </function>
- Required parameters MUST be specified
- Only call one function at a time
- Put the entire function call reply on one line"""

_PYTHONIC_RULES = """\
You are an expert in composing functions. You are given a question and a set of possible functions.
Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the function can be used, point it out. If the given question lacks the parameters required by the function,
also point it out. You should only return the function call in tools call sections.

If you decide to invoke any of the function(s), you MUST put it in the format of \
[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]
You SHOULD NOT include any other text in the response.

Here is a list of functions in JSON format that you can invoke."""
