"""Runs a chat template that nobody has read: it can reach nothing, and it ends.

A template is a program from the internet. Jinja's sandbox keeps it away from Python's internals, but not from the
processor or the memory. A thread cannot be stopped from outside and a process for each prompt would cost more than the
prompt, so the bound is built into the template: before compilation its syntax tree is rewritten so that every loop,
call, operator, filter, literal container and piece of output passes through a Budget. Between two such points the work
is small, because every value that the template makes is weighed: a string by its length, a container by all that is
in it, shared parts counted each time they appear (what str() would write). What a chat template never needs and what
would be expensive to bound (wide padding, big powers, lipsum) is refused.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from pronk.errors import ChatFormatError

MAX_SOURCE = 128 * 1024  # characters of a template; the longest in use have some 25,000
MAX_WEIGHT = 4_000_000  # of one value, and of everything that a rendering puts out: about a million tokens
MAX_SECONDS = 1.0  # of this thread's processor time, so that a busy machine refuses nobody
_CONTAINER_WEIGHT, _PART_WEIGHT = 32, 8  # beyond the characters: the cost of many small parts
_MAX_DEPTH = 64
_MAX_BITS = 4096
_BUDGET = "\0budget"  # no template can write this name

_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
_WIDE_BRACES = re.compile(r"[:!][^{}]*(?:\d{4}|\{)")
_WIDE_TIME = re.compile(r"%[^a-zA-Z%]*\d{3}")
_TEXT_METHODS = frozenset(
    """capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower
    isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex
    rpartition rsplit rstrip split splitlines startswith strip swapcase title upper""".split()  # noqa: SIM905
)
_UNBOUNDED_FILTERS = ("urlize", "xmlattr", "pprint", "random", "wordwrap", "center", "striptags", "slice")
# Filters whose arguments cannot make the result bigger, or that check it themselves.
_FREE_ARGUMENTS = frozenset(
    "default d replace join format sum map select reject selectattr rejectattr groupby int float".split()  # noqa: SIM905
)


class Budget:
    """What one rendering may use. Raises TemplateError when it is spent."""

    def __init__(self) -> None:
        self._deadline = time.thread_time() + MAX_SECONDS
        self._written = 0
        # By identity, with the value kept alive: the sandbox lets nobody change a container, so a weight stays true.
        self._weights: dict[int, tuple[object, int, int]] = {}
        self._kept = 0

    def tick(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateError(f"it ran for more than {MAX_SECONDS:g} s")

    def iterate(self, values: Iterable[object]) -> Iterator[object]:
        for value in values:
            self.tick()
            yield value

    def write(self, text: str) -> str:
        self.tick()
        self._written += len(text) + 1
        if self._written > MAX_WEIGHT:
            raise TemplateError(f"it writes more than {MAX_WEIGHT} characters")
        return text

    def check(self, weight: int) -> None:
        if weight > MAX_WEIGHT:
            raise TemplateError(f"it makes a value of more than {MAX_WEIGHT} characters")

    def admit(self, value: Any) -> Any:
        """A value that the template made, if it is not too big."""
        self.tick()
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise TemplateError(f"it makes a number of more than {_MAX_BITS} bits")
        self.weigh(value)
        return value

    def joined(self, left: Any, right: Any) -> Any:
        """left + right of lists, weighed by its halves: one grown message by message is not measured anew each time."""
        self.tick()
        (left_weight, left_depth), (right_weight, right_depth) = self._measure(left), self._measure(right)
        weight = left_weight + right_weight - _CONTAINER_WEIGHT
        self.check(weight)
        whole = left + right
        self._remember(whole, weight, max(left_depth, right_depth))
        return whole

    def weigh(self, value: object) -> int:
        """What it would take to write the value out, about: characters."""
        return self._measure(value)[0]

    def _measure(self, value: object) -> tuple[int, int]:
        """Weight and depth."""
        if isinstance(value, str):
            self.check(len(value))
            return len(value) + _PART_WEIGHT, 0
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return _PART_WEIGHT, 0
        known = self._weights.get(id(value))
        if known is not None:
            return known[1], known[2]
        weight, depth = _CONTAINER_WEIGHT, 0
        for part in _parts(value):
            part_weight, part_depth = self._measure(part)
            weight, depth = weight + part_weight, max(depth, part_depth)
            self.check(weight)
        if depth >= _MAX_DEPTH:
            raise TemplateError(f"it nests containers more than {_MAX_DEPTH} deep")
        self._remember(value, weight, depth + 1)
        return weight, depth + 1

    def _remember(self, value: object, weight: int, depth: int) -> None:
        self._kept += weight
        if self._kept > 4 * MAX_WEIGHT:
            self._weights.clear()  # or a loop's rubbish would stay alive
            self._kept = weight
        self._weights[id(value)] = (value, weight, depth)


def _parts(value: Mapping[Any, Any] | Iterable[Any]) -> Iterator[object]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield item
    else:
        yield from value


def _check_attribute(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a chat template may not set the attribute {name!r}")


def _budget(context: Context) -> Budget:
    return cast(Budget, context.parent[_BUDGET])


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it only writes its body."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Guards(NodeTransformer):
    """Puts the budget's filters around whatever can grow or repeat."""

    def generic_visit(self, node: nodes.Node, *args: object, **kwargs: object) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.For):
            node.iter = _filtered(node.iter, "_each")
        elif isinstance(node, nodes.TemplateData):
            return nodes.Const(node.data).set_lineno(node.lineno)  # now it, too, goes through `finalize`
        elif isinstance(node, nodes.Concat):
            return _filtered(nodes.List(node.nodes), "_concat", node.lineno)
        elif isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            return _filtered(node, "_admit")
        return node


def _filtered(node: nodes.Node, name: str, line: int | None = None) -> nodes.Filter:
    guarded = nodes.Filter(node, name, [], [], None, None)
    guarded.set_lineno(node.lineno if line is None else line)
    return guarded


class _Namespace(Namespace):
    """Jinja's namespace holds values that change, so that its text could not be weighed: it has none.

    Names with an underscore in front are refused, as transformers does: they would reach the object's own parts.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:  # an attribute may be called `self`
        for name in dict(*args[1:], **kwargs):
            _check_attribute(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], optimized=False, cache_size=0,
            finalize=_write,
        )  # fmt: skip
        for name in _UNBOUNDED_FILTERS:
            del self.filters[name]
        self.filters.update(tojson=_tojson, replace=_replace, join=_join, sum=_sum, format=_format, indent=_indent)
        self.filters = {name: self._guarded(name, function) for name, function in self.filters.items()}
        self.filters.update(_each=_each, _concat=_concat, _admit=_admit)
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise, strftime_now=_strftime_now, namespace=_Namespace)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter with its arguments checked before and its result after."""
        wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

        @pass_context
        def guarded(context: Context, *args: Any, **kwargs: Any) -> Any:
            budget = _budget(context)
            budget.tick()
            if name not in _FREE_ARGUMENTS:
                for argument in (*args[1:], *kwargs.values()):
                    _check_argument(name, argument)
            first = {"context": context, "eval_context": context.eval_ctx, "environment": self}.get(wanted)
            result = function(*args, **kwargs) if first is None else function(first, *args, **kwargs)
            return budget.iterate(result) if isinstance(result, Iterator) else budget.admit(result)

        return guarded

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = _budget(__context)
        budget.tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if __obj.__name__ == "join" and args:
                args = (list(budget.iterate(args[0])), *args[1:])
            _check_text_method(budget, owner, __obj.__name__, args, kwargs)
        elif isinstance(owner, int | float | bytes):
            raise SecurityError(f"a chat template may not call {type(owner).__name__}.{__obj.__name__}")
        return budget.admit(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__
        if _WIDE_BRACES.search(text) or value.__name__ != "format":
            raise SecurityError("a chat template may not use str.format with a wide or nested field")

        def bounded(*args: Any, **kwargs: Any) -> str:
            weight = sum(map(Budget().weigh, (*args, *kwargs.values())))
            Budget().check(len(text) + text.count("{") * weight)
            return wrapped(*args, **kwargs)

        return bounded

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget(context)
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(times, int):
                    budget.check(budget.weigh(value) * max(times, 0))
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.check(len(left) + len(right))
        elif operator == "+" and isinstance(left, list | tuple) and type(left) is type(right):
            return budget.joined(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_percent(budget, left, right)
        elif operator == "**" and not (abs(left) <= 1e6 and abs(right) <= 64):
            raise TemplateError("it raises a number to a big power")
        return budget.admit(super().call_binop(context, operator, left, right))


def _check_text_method(budget: Budget, text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if name not in _TEXT_METHODS:
        raise SecurityError(f"a chat template may not call str.{name}")
    if name == "join" and args:
        budget.check(budget.weigh(args[0]) + len(text) * len(args[0]))
    elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        budget.check(len(text) + (text.count(args[0]) + 1) * len(args[1]))
    elif kwargs and name == "replace":
        raise SecurityError("a chat template may not name the arguments of str.replace")


def _check_argument(name: str, argument: object) -> None:
    if isinstance(argument, int) and abs(argument) > 1000:
        raise SecurityError(f"a chat template may not give the filter {name!r} the number {argument:.3g}")
    if isinstance(argument, str) and len(argument) > 1000:
        raise SecurityError(f"a chat template may not give the filter {name!r} a text of {len(argument)} characters")


def _check_percent(budget: Budget, text: str, values: object) -> None:
    if _WIDE_PERCENT.search(text):
        raise SecurityError("a chat template may not pad so widely")
    budget.check(len(text) + text.count("%") * budget.weigh(values))


@pass_context
def _write(context: Context, value: object) -> str:
    """Jinja's `finalize`: every piece of output, those inside macros and {% set %} blocks too."""
    budget = _budget(context)
    budget.weigh(value)
    return budget.write(str(value))


@pass_context
def _each(context: Context, values: Iterable[object]) -> Iterator[object]:
    return _budget(context).iterate(values)


@pass_context
def _admit(context: Context, value: object) -> object:
    return _budget(context).admit(value)


@pass_context
def _concat(context: Context, values: list[object]) -> str:
    budget = _budget(context)
    budget.admit(values)
    return "".join(map(str, values))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: Jinja's own escapes HTML."""
    spacing = indent if isinstance(indent, str) else " " * (indent or 0)
    if any(len(part) > 16 for part in (spacing, *(separators or ()))):
        raise SecurityError("a chat template may not space JSON so widely")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_context
def _replace(context: Context, text: object, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _budget(context).check(len(text) + (text.count(old) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


@pass_context
def _join(context: Context, values: Iterable[Any], d: object = "", attribute: str | int | None = None) -> str:
    budget, separator = _budget(context), str(d)
    texts: list[str] = []
    weight = 0
    environment = context.environment
    for value in budget.iterate(values):
        item = value if attribute is None else environment.getitem(value, attribute)
        weight += budget.weigh(item) + len(separator)
        budget.check(weight)
        texts.append(str(item))
    return separator.join(texts)


@pass_context
def _sum(context: Context, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    budget, environment = _budget(context), context.environment
    for value in budget.iterate(values):
        start = budget.admit(start + (value if attribute is None else environment.getitem(value, attribute)))
    return start


@pass_context
def _format(context: Context, text: object, *args: object, **kwargs: object) -> str:
    _check_percent(_budget(context), str(text), kwargs or args)
    return str(text) % (kwargs or args)


@pass_context
def _indent(context: Context, text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text, margin = str(text), width if isinstance(width, str) else " " * width
    _budget(context).check(len(text) + (text.count("\n") + 1) * len(margin))
    lines = text.split("\n")
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return "\n".join([margin + lines[0] if first else lines[0], *rest])


def _raise(message: object) -> None:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 200 or _WIDE_TIME.search(form):
        raise SecurityError("a chat template may not pad a date so widely")
    return datetime.now().strftime(form)


@lru_cache(maxsize=8)
def compile_template(source: str) -> Template:
    """A guarded template. Raises ChatFormatError for one that is no Jinja, or too long."""
    if len(source) > MAX_SOURCE:
        raise ChatFormatError(f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are read")
    environment = _Environment()
    try:
        tree = _Guards().visit(environment.parse(source))
        code = environment.compile(tree)
        return Template.from_code(environment, code, environment.make_globals(None))
    except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise ChatFormatError(f"the model's chat template is no valid Jinja: {_line(error)}") from None


def render(template: Template, values: Mapping[str, object]) -> str:
    """The text that a template writes. Raises ChatFormatError, after about a second at most, whatever it does."""
    try:
        budget = Budget()
        for value in values.values():
            budget.weigh(value)
        return "".join(template.generate({**values, _BUDGET: budget}))
    except ChatFormatError:
        raise
    except Exception as error:  # a template is a foreign program: anything may come out of it
        raise ChatFormatError(f"the model's chat template refuses this conversation: {_line(error)}") from None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
