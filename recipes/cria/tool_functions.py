"""Functions that the model learns to call, and the tools that offer them under ever new names.

A `Function` is what is behind a tool: what it does, how users ask for it and how its result is told. Some are written
(`word_lists/tools_functions.yaml`), most are put together from a verb, a thing, attributes and parameters, where any of
the words may be made up. `offer` gives a function the names that one conversation knows it by.

Written functions are on one side as they stand. What is put together is on the side of the two words of which it is: a
tenth of all pairs is held out. Training makes up many more names than evaluation does: a name that means nothing can
only be copied, and one that is easily guessed teaches to guess.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pronk.text.messages import Tool
from recipes.cria import words
from recipes.cria.conversation import LANGUAGES, Language, Split
from recipes.cria.tool_values import choices
from recipes.cria.tool_words import alternatives, entries, phrases, read_yaml

MADE_UP_WORD: Mapping[Split, float] = {"train": 0.25, "held_out": 0.1}  # of the verbs, things, attributes
MADE_UP_PARAMETER: Mapping[Split, float] = {"train": 0.25, "held_out": 0.04}
MADE_UP_NAME: Mapping[Split, float] = {"train": 0.15, "held_out": 0.03}
MADE_UP_PREFIX = 0.04
_JSON_TYPES = {"int": "integer", "decimal": "number", "flag": "boolean"}
Word = Mapping[Language, str]
PerLanguage = Mapping[Language, tuple[str, ...]]
SPLITS: tuple[Split, ...] = ("train", "held_out")
_NOTHING: PerLanguage = {"en": (), "zh": ()}
_THING_KEYS = {"code": ("code", "编号"), "word": ("name", "名称"), "person": ("name", "名称")}
_QUESTION_WORDS = {"int": "多少", "decimal": "多少", "person": "谁", "place": "哪里"}
_SPACE_BY_CHINESE = re.compile(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])")


@dataclass(frozen=True)
class Slot:
    """A value that a function takes. `kind` is that of `tool_values.draw`."""

    key: str
    kind: str
    names: tuple[str, ...]
    label: Word
    optional: bool = False


@dataclass(frozen=True)
class Function:
    """`domain` is what keeps two functions apart: no request for one can be served by a function of another domain.
    `result` maps keys to kinds; one without it only reports that it is done."""

    domain: str
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    about: PerLanguage
    slots: tuple[Slot, ...]
    do: PerLanguage
    ask: PerLanguage
    bare: PerLanguage
    result: Mapping[str, str]
    say: PerLanguage


@dataclass(frozen=True)
class FunctionTool(Tool):
    """A tool that knows the function behind it. `names` maps the key of each slot that it has to its parameter."""

    function: Function = field(kw_only=True)
    language: Language = field(kw_only=True)
    names: Mapping[str, str] = field(kw_only=True)

    @property
    def slots(self) -> list[Slot]:
        return [slot for slot in self.function.slots if slot.key in self.names]

    def is_required(self, slot: Slot) -> bool:
        return self.names[slot.key] in (self.parameters or {}).get("required", ())


@cache
def written_functions(split: Split) -> tuple[Function, ...]:
    domains = read_yaml("tools_functions.yaml")[split]
    return tuple(
        _read_function(domain, item) for domain, items in domains.items() if isinstance(items, list) for item in items
    )


def composed_family(rng: random.Random, split: Split, count: int) -> list[Function]:
    """Functions for one thing: `label_crate`, `get_crate_weight`."""
    noun = _word(rng, "nouns", split)
    family: dict[str, Function] = {}
    while len(family) < count:
        function = (_action if rng.random() < 0.5 else _query)(rng, noun, split)
        if words.split_of(function.domain) == split:
            family[function.domain] = function
    return list(family.values())


def offer(rng: random.Random, function: Function, language: Language, split: Split) -> FunctionTool:
    """The function as a tool, with a name and parameters' names of its own."""
    slots = [slot for slot in function.slots if not slot.optional or rng.random() < 0.6]
    names: dict[str, str] = {}
    made_up: set[str] = set()
    for slot in slots:
        if rng.random() < MADE_UP_PARAMETER[split]:
            made_up.add(slot.key)
            names[slot.key] = _invented(rng, split)
        else:
            names[slot.key] = rng.choice([name for name in slot.names if name not in names.values()])
    described = rng.random() < 0.6 or (language == "zh" and (split == "held_out" or rng.random() < 0.7))
    properties = {names[slot.key]: _schema(slot, language, described or slot.key in made_up) for slot in slots}
    required = [names[slot.key] for slot in slots if not slot.optional or rng.random() < 0.3]
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    return FunctionTool(
        _tool_name(rng, function, split),
        rng.choice(function.about[language]),
        parameters,
        function=function,
        language=language,
        names=names,
    )


def close_up(text: str) -> str:
    """Chinese as we write it: no space but between two words in Latin letters."""
    return _SPACE_BY_CHINESE.sub("", text)


def _schema(slot: Slot, language: Language, described: bool) -> dict[str, Any]:
    kind = slot.kind.partition(" ")[0]
    schema: dict[str, Any] = {"type": _JSON_TYPES.get(kind, "string")}
    if described:
        schema["description"] = slot.label[language]
    if kind == "choice":
        schema["enum"] = choices(slot.kind, language)
    return schema


def _tool_name(rng: random.Random, function: Function, split: Split) -> str:
    if rng.random() < MADE_UP_NAME[split]:
        return "_".join(_invented(rng, split) for _ in range(rng.choice((1, 2))))
    verb, noun = rng.choice(function.verbs), rng.choice(function.nouns)
    parts = [verb, noun] if rng.random() < 0.85 else [noun, verb]
    if rng.random() < MADE_UP_PREFIX:
        parts.insert(0, _invented(rng, split))
    style = rng.random()
    if style < 0.15:
        first, *rest = "_".join(parts).split("_")
        return first + "".join(part.capitalize() for part in rest)
    return "_".join(parts) if style < 0.95 else ".".join(parts)


def _read_function(domain: str, item: Mapping[str, Any]) -> Function:
    verbs, nouns = (_names(part) for part in item["name"].split(";"))

    def both(name: str) -> PerLanguage:
        return {language: alternatives(item.get(f"{name}_{language}", "")) for language in LANGUAGES}

    return Function(
        domain=domain,
        verbs=verbs,
        nouns=nouns,
        about=both("about"),
        slots=tuple(_read_slot(key, text) for key, text in item["slots"].items()),
        do=both("do"),
        ask=both("ask"),
        bare=both("bare"),
        result=item.get("result", {}),
        say=both("say"),
    )


def _read_slot(key: str, text: str) -> Slot:
    kind, names, en, zh = (part.strip() for part in text.split(";"))
    return Slot(key.rstrip("?"), kind, _names(names), {"en": en, "zh": zh}, optional=key.endswith("?"))


def _invented(rng: random.Random, split: Split) -> str:
    """A word that no function of either split has."""
    while (word := words.word(rng, "en", split).lower()) in _known():
        pass
    return word


@cache
def _known() -> frozenset[str]:
    functions = [function for split in SPLITS for function in written_functions(split)]
    named = {name for function in functions for name in (*function.verbs, *function.nouns)}
    named |= {name for function in functions for slot in function.slots for name in slot.names}
    lists = ("verbs", "nouns", "query_verbs", "attributes", "keys", "parameters", "modifiers")
    named |= {entry[0] for name in lists for entry in entries(name)}
    return frozenset(part for name in named for part in name.split("_"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _action(rng: random.Random, noun: Word, split: Split) -> Function:
    """Something done to a thing, with up to three parameters: "label the crate K-204 with owner Mara"."""
    verb = _word(rng, "verbs", split)
    about_zh = close_up(f"{verb['zh']} {noun['zh']}")
    slots: list[Slot] = []
    if rng.random() < 0.4:
        slots.append(_thing_slot(noun, rng.choice(("code", "word", "person"))))
    slots += _parameters(rng, noun, rng.choice((1, 2)) if slots else rng.choice((0, 1, 1, 2, 2, 3)))
    thing = "{thing}" if slots and slots[0].key == "thing" else ""
    core: dict[Language, str] = {
        "en": f"{verb['en']} the {noun['en']} {thing}".rstrip(),
        "zh": f"{verb['zh']} {noun['zh']} {thing}".rstrip(),
    }
    named = [slot for slot in slots if slot.key != "thing"]
    return Function(
        domain=f"{verb['en']} {noun['en']}",
        verbs=(verb["en"].replace(" ", "_"),),
        nouns=(noun["en"].replace(" ", "_"),),
        about={
            "en": (f"{verb['en'].capitalize()} {words.a(noun['en'])}",),
            "zh": (about_zh,),
        },
        slots=tuple(slots),
        do={
            language: tuple(
                core[language] + _with(named, phrase, language) for phrase in phrases(f"action_phrases_{language}")
            )
            for language in LANGUAGES
        },
        ask=_NOTHING,
        bare={
            "en": (f"{verb['en']} {words.a(noun['en'])}",),
            "zh": (about_zh,),
        },
        result={},
        say=_NOTHING,
    )


def _query(rng: random.Random, noun: Word, split: Split) -> Function:
    """Something told about a thing: "What is the weight of the crate K-204?"."""
    word, chinese, kind = rng.choice(entries("attributes"))
    attribute: Word = {"en": word.replace("_", " "), "zh": chinese}
    if rng.random() < MADE_UP_WORD[split]:
        attribute = _made_up(rng, split)
    key_kind = rng.choice(("code", "word", "person", "int 10 999"))
    if rng.random() < 0.5:
        key = _thing_slot(noun, key_kind)
    else:
        name, label = rng.choice(entries("keys"))
        key = Slot("thing", key_kind, (name,), {"en": name.replace("_", " "), "zh": label})
    result_key = attribute["en"].replace(" ", "_")
    fill = {
        language: {
            "attribute": attribute[language],
            "noun": noun[language],
            "key": "{thing}" if language == "en" else " {thing}",
            "what": _QUESTION_WORDS.get(kind.partition(" ")[0], "什么"),
        }
        for language in LANGUAGES
    }
    verbs = tuple(verb for verb, _ in entries("query_verbs"))
    return Function(
        domain=f"{attribute['en']} {noun['en']}",
        verbs=verbs,
        nouns=(f"{noun['en']}_{result_key}",),
        about={
            "en": tuple(f"{verb} the {attribute['en']} of {words.a(noun['en'])}" for verb in ("Get", "Tell", "Find")),
            "zh": tuple(f"{verb}{noun['zh']}的{attribute['zh']}" for verb in ("查询", "查找", "得到")),
        },
        slots=(key,),
        do=_filled("query_dos", fill),
        ask=_filled("query_asks", fill),
        bare={
            "en": (f"tell me the {attribute['en']} of {words.a(noun['en'])}",),
            "zh": (f"查一下{noun['zh']}的{attribute['zh']}",),
        },
        result={result_key: kind},
        say={
            "en": (f"The {attribute['en']} of the {noun['en']} {{thing}} is {{{result_key}}}.",),
            "zh": (f"{noun['zh']} {{thing}}的{attribute['zh']}是{{{result_key}}}。",),
        },
    )


def _filled(name: str, fill: Mapping[Language, Mapping[str, str]]) -> PerLanguage:
    return {
        language: tuple(phrase.format(**fill[language]) for phrase in phrases(f"{name}_{language}"))
        for language in LANGUAGES
    }


def _word(rng: random.Random, list_name: str, split: Split) -> Word:
    if rng.random() < MADE_UP_WORD[split]:
        return _made_up(rng, split)
    english, chinese = rng.choice(entries(list_name))
    return {"en": english, "zh": chinese}


def _made_up(rng: random.Random, split: Split) -> Word:
    """The same in both languages."""
    word = _invented(rng, split)
    return {"en": word, "zh": word}


def _thing_slot(noun: Word, kind: str) -> Slot:
    """What names the thing; its label says how, "crate code" or "crate name"."""
    suffix, chinese = _THING_KEYS.get(kind, ("number", "号码"))
    label: Word = {"en": f"{noun['en']} {suffix}", "zh": noun["zh"] + chinese}
    return Slot("thing", kind, (noun["en"], f"{noun['en']}_{suffix}", f"{noun['en']}_id"), label)


def _parameters(rng: random.Random, noun: Word, count: int) -> list[Slot]:
    """Parameters of different names, a sixth of them with a modifier: `new_owner`."""
    slots = []
    others = [entry for entry in entries("parameters") if entry[0] != noun["en"]]
    for index, (name, chinese, kind) in enumerate(rng.sample(others, count)):
        english = name
        if rng.random() < 0.17:
            modifier, modifier_zh = rng.choice(entries("modifiers"))
            english, chinese = f"{modifier}_{name}", modifier_zh + chinese
        kind = kind.replace(":", "=").replace(";", ",")
        slots.append(Slot(f"p{index}", kind, (english,), {"en": english.replace("_", " "), "zh": chinese}))
    return slots


def _with(slots: Sequence[Slot], phrase: str, language: Language) -> str:
    """What says the slots' values. A phrase has two forms, for the first value and for the others."""
    first, other = phrase.split("/")
    text = "".join(
        (other if index else first).replace("{label}", slot.label[language]).replace("{value}", f"{{{slot.key}}}")
        for index, slot in enumerate(slots)
    )
    return f" {text}" if text[:1].isalpha() and language == "en" else text
