"""Which chat format a model speaks, from what its checkpoint says. Nothing is guessed from file names.

In order: an explicit `variant`; the checkpoint's chat template, if it has one; the control tokens of its vocabulary.
A template is taken for Meta's when it has Meta's markers and writes a small conversation as Meta does; many fine-tunes
borrow the markers and change the rest. Meta's are then written by hand: Hugging Face's version of the 3.1 and 3.2
templates adds a system message that nobody asked for, trims, and allows one call a turn. `variant="template"` runs the
template itself, whatever it is, as transformers would.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, cast, get_args

from pronk.errors import ChatFormatError
from pronk.text.llama2_format import Llama2Format
from pronk.text.llama3_format import HEADER_TOKENS, TOOL_TOKENS, Llama3Format
from pronk.text.llama3_tools import TOOL_STYLES, ToolStyle
from pronk.text.messages import Answer, ChatFormat, Message, Tool
from pronk.text.plain_format import PlainFormat
from pronk.text.tokenizer import Tokenizer

Variant = Literal["llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "template", "plain"]
VARIANTS: tuple[str, ...] = get_args(Variant)

# How each member of the family describes the caller's own functions unless told otherwise: Meta's prompt pages.
_TOOL_STYLES: dict[str, ToolStyle | None] = {
    "llama3": None,
    "llama3.1": "json",
    "llama3.2": "pythonic",
    "llama3.3": "pythonic",
}
_DATE_LINES = re.compile(r"Cutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n+")


def chat_format(
    tokenizer: Tokenizer,
    template: str | None = None,
    variant: str | None = None,
    tool_style: str | None = None,
    *,
    tools_in: str | None = None,
    today: str | None = None,
) -> ChatFormat:
    """The chat format of a model with this tokenizer and (if it has one) this Jinja template.

    variant: one of VARIANTS, instead of what the checkpoint says. tool_style, tools_in ("system" or "user"): how and
    where Llama 3's formats describe functions; default as Meta has it. today: a date for Meta's date lines.
    Raises ChatFormatError where the format cannot be known or does not fit the vocabulary.
    """
    _check_choice("variant", variant, VARIANTS)
    _check_choice("tool_style", tool_style, TOOL_STYLES)
    _check_choice("tools_in", tools_in, ("system", "user"))
    template = template if template and template.strip() else None
    chosen = variant or _recognise(tokenizer, template)
    if chosen == "template":
        if template is None:
            raise ChatFormatError("variant 'template' was asked for, but the checkpoint has no chat template")
        if tool_style or tools_in:
            raise ChatFormatError("the model's own chat template decides how tools are described; leave tool_style out")
        return _jinja(tokenizer, template, today)
    if chosen == "plain":
        if tool_style or tools_in:
            raise ChatFormatError("the plain format knows no tools; leave tool_style and tools_in out")
        return PlainFormat(tokenizer)
    if chosen == "llama2":
        if tool_style or tools_in:
            raise ChatFormatError("Llama 2's chat format has no tools; leave tool_style and tools_in out")
        return _llama2(tokenizer)
    return _llama3(tokenizer, chosen, tool_style, tools_in, today)


def read_answer(chat: ChatFormat, ids: Sequence[int], tools: Sequence[Tool] = ()) -> Answer:
    """What a whole answer says: the ids that a model gave after `chat.encode(messages, tools)`."""
    parser = chat.parser(tools)
    deltas = (parser.feed(ids), parser.finish())
    return Answer(
        "".join(delta.content for delta in deltas), tuple(call for delta in deltas for call in delta.tool_calls)
    )


def _check_choice(what: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise ChatFormatError(f"{what} is {value!r}; expected one of {', '.join(choices)}")


def _recognise(tokenizer: Tokenizer, template: str | None) -> str:
    if template is not None:
        family = _family(template)
        return family if family and _writes_like(tokenizer, template, family) else "template"
    special = tokenizer.special_ids
    if all(text in special for text in HEADER_TOKENS):
        return "llama3.1" if all(text in special for text in TOOL_TOKENS) else "llama3"
    raise ChatFormatError(
        "the checkpoint has no chat template, and its vocabulary has no known chat tokens: it may be a base model. "
        f"Use `pronk complete`, or name a format: {', '.join(v for v in VARIANTS if v != 'template')}"
    )


def _family(template: str) -> str | None:
    """The member of Meta's family whose markers a template has."""
    if "[INST]" in template and "<<SYS>>" in template:
        return "llama2"
    if "<|start_header_id|>" not in template or "<|eot_id|>" not in template:
        return None
    if "Environment: ipython" not in template:
        return "llama3"
    return "llama3.1" if "builtin_tools" in template else "llama3.2"


def _writes_like(tokenizer: Tokenizer, template: str, family: str) -> bool:
    """Does the template write two small conversations as Meta's format does, but for the date lines?"""
    talk = (Message("user", "Alpha"), Message("assistant", "Beta"), Message("user", "Gamma"))
    try:
        ours = _llama2(tokenizer) if family == "llama2" else _llama3(tokenizer, family, None, None, None)
        theirs = _jinja(tokenizer, template, None)
        for messages in (talk, (Message("system", "Delta"), *talk)):
            wanted, found = ours.encode(messages), theirs.encode(messages)
            if _plain_text(tokenizer, wanted) != _plain_text(tokenizer, found):
                return False
    except ChatFormatError:
        return False
    return True


def _plain_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Ids as text with control tokens named, without what Hugging Face's templates add to Meta's formats."""
    control = {token_id: text for text, token_id in tokenizer.special_ids.items()}
    text, stretch = "", list[int]()
    for token_id in ids:
        if token_id in control:
            text += tokenizer.decode(stretch) + control[token_id]
            stretch = []
        else:
            stretch.append(token_id)
    text = _DATE_LINES.sub("", text + tokenizer.decode(stretch))
    return text.replace("<|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>", "").replace(" ", "")


def _jinja(tokenizer: Tokenizer, template: str, today: str | None) -> ChatFormat:
    from pronk.text.jinja_format import JinjaFormat  # jinja2 is loaded for the models that need it

    return JinjaFormat(tokenizer, template, today=today)


def _llama2(tokenizer: Tokenizer) -> Llama2Format:
    vocabulary = tokenizer.vocabulary
    eos_id = tokenizer.special_ids.get("</s>") if vocabulary is None else vocabulary.eos_id
    if eos_id is None or tokenizer.bos_id is None:
        raise ChatFormatError("the vocabulary has no bos and eos token; Llama 2's chat format needs both")
    return Llama2Format(tokenizer, tokenizer.bos_id, eos_id)


def _llama3(
    tokenizer: Tokenizer, variant: str, tool_style: str | None, tools_in: str | None, today: str | None
) -> Llama3Format:
    missing = [text for text in HEADER_TOKENS if text not in tokenizer.special_ids]
    if missing:
        raise ChatFormatError(
            f"the vocabulary has no {missing[0]} token; the {variant} chat format needs it: name another variant, "
            "or use `pronk complete`"
        )
    style = cast("ToolStyle | None", tool_style or _TOOL_STYLES[variant])
    place = tools_in or ("system" if style == "pythonic" else "user")
    return Llama3Format(
        tokenizer,
        variant,
        tool_style=style,
        tools_in=cast('Literal["system", "user"]', place),
        strips_content=variant == "llama3",
        today=today,
    )
