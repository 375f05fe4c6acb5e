"""Questions and answers about pronk and Llama, from the families in `recipes/cria/questions/*.yaml`.

A family is one fact: many ways to ask for it and one answer, in each language. Patterns like "{What is|Define} RoPE"
stand for all their readings. Training gets those, as people type them: without a question mark, in lower case, with a
greeting, without some small words, or turned into another sentence. The last matters most: if "I want to" stood in the
patterns of a few families only, a small model would take it for their topic. One reading in ten is held out, by a hash
of its letters, but never the first of a family, which is how most people ask; and what is added to another reading is
taken off again where it happens to make a held-out one.

A family's `own_words` is a phrasing that no pattern yields, which is checked when the files are read. Nothing is
trained on it: it tells how far understanding goes beyond the patterns.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from pronk.text.messages import Message
from recipes.cria import words
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Split

FOLDER = Path(__file__).parents[1] / "questions"
MAX_READINGS = 5000  # of one pattern: more is a slip, and slow to check

_CHOICE = re.compile(r"\{([^{}]*)\}")
_QUESTION = re.compile(
    r"(what|what's|how|why|which|who|when|where|can|could|do|does|did|is|are|am|was|will|would|should|must|may|has|have)\b",
    re.IGNORECASE,
)
_QUESTION_ZH = re.compile(
    "什么|怎么|怎样|如何|吗|呢|哪|多少|多大|多长|多久|几|谁|是不是|能不能|有没有|可不可以|要不要|会不会|为何"
)
# What shows that a phrasing is a sentence and no list of keywords
_VERBS = (
    "what|what's|how|why|which|who|when|where|can|could|do|does|did|is|are|was|were|will|would|should|must|may|has|have|had|"
    "i|my|me|you|your|we|explain|define|describe|tell|show|give|list|name|says?|refuses|cannot|not|needs?|runs?|stops|"
    "in|on|for|under|of|by|to|from|compare|introduce|use|using|complains|reports|keeps|makes?|gets?|after|if|a|an|the|several"
)
_KEYWORD = rf"(?!(?i:{_VERBS})\b)[^\s,]+"
_VERBS_ZH = f"{_QUESTION_ZH.pattern}|我|你|解释|介绍|讲|说|列出|报错|提示|比较|给|请|告诉|该用|关于"


@dataclass(frozen=True)
class Pattern:
    """A phrasing with alternatives: `parts` holds, for each stretch, the texts that it may be."""

    source: str
    parts: tuple[tuple[str, ...], ...]

    def readings(self) -> Iterator[str]:
        return (_tidy("".join(choice)) for choice in product(*self.parts))

    def draw(self, rng: random.Random) -> str:
        return _tidy("".join(rng.choice(part) for part in self.parts))


@dataclass(frozen=True)
class Wording:
    """A family in one language. An answer is right if it has one string of each group of `facts`, in any case."""

    ask: tuple[Pattern, ...]
    own_words: str
    answer: str
    facts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Family:
    id: str
    wordings: Mapping[Language, Wording]


def exchange(rng: random.Random, language: Language, split: Split) -> Exchange:
    """A question and its answer. `expect` has the family's id and facts."""
    while True:
        family = rng.choice(families())
        asked = rng.choice(family.wordings[language].ask).draw(rng)
        if _split_of(asked) == split:
            break
    if split == "held_out":
        return _answered(family, language, _punctuated(asked, language))
    typed = _typed(rng, _loosened(rng, _reframed(rng, asked, language), language), language)
    is_trained = _split_of(typed) == "train" and _fold(typed) not in _all_own_words(language)
    return _answered(family, language, typed if is_trained else asked)


def in_own_words(rng: random.Random, language: Language) -> Exchange:
    """A question as no pattern has it."""
    family = rng.choice(families())
    return _answered(family, language, family.wordings[language].own_words)


def _answered(family: Family, language: Language, question: str) -> Exchange:
    wording = family.wordings[language]
    return Exchange(
        skill="questions",
        language=language,
        messages=(Message("user", question), Message("assistant", wording.answer)),
        expect={"facts": [list(group) for group in wording.facts], "family": family.id},
    )


@cache
def families() -> tuple[Family, ...]:
    """All families, file by file. ValueError names the family that is not as it should be."""
    found = tuple(family for path in sorted(FOLDER.glob("*.yaml")) for family in read(path))
    if not found:
        raise ValueError(f"{FOLDER} has no *.yaml, expected files of families")
    check(found)
    return found


@cache
def _all_own_words(language: Language) -> frozenset[str]:
    return frozenset(_fold(family.wordings[language].own_words) for family in families())


@cache
def _plainest() -> frozenset[str]:
    """The first reading of every family."""
    wordings = (wording for family in families() for wording in family.wordings.values())
    return frozenset(_fold(next(wording.ask[0].readings())) for wording in wordings)


def _split_of(text: str) -> Split:
    form = _fold(text)
    return "train" if form in _plainest() else words.split_of(form)


def _punctuated(text: str, language: Language) -> str:
    if language == "en":
        return text + ("?" if _QUESTION.match(text) else "")
    return text + ("？" if _QUESTION_ZH.search(text) else "")


# Reading


def read(path: Path) -> tuple[Family, ...]:
    """The families of one file, each well-formed by itself."""
    try:
        entries = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is no YAML: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path.name} holds {type(entries).__name__}, expected a list of families")
    return tuple(_family(entry, f"{path.name}, entry {number}") for number, entry in enumerate(entries, 1))


def _family(entry: Any, place: str) -> Family:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ValueError(f"{place} has no id")
    name: str = entry["id"]
    if set(entry) != {"id", *LANGUAGES}:
        raise ValueError(f"{name} has {sorted(map(str, entry))}, expected id, {', '.join(LANGUAGES)}")
    return Family(name, {language: _wording(entry[language], f"{name} ({language})") for language in LANGUAGES})


def _wording(entry: Any, name: str) -> Wording:
    keys = {"ask", "own_words", "answer", "facts"}
    if not isinstance(entry, dict) or set(entry) != keys:
        raise ValueError(f"{name} has {list(entry) if isinstance(entry, dict) else entry!r}, expected {sorted(keys)}")
    ask = _strings(entry["ask"], f"{name}, ask")
    (own_words,) = _strings([entry["own_words"]], f"{name}, own_words")
    (answer,) = _strings([entry["answer"]], f"{name}, answer")
    if not isinstance(entry["facts"], list):
        raise ValueError(f"{name} has facts {entry['facts']!r}, expected a list of lists of strings")
    facts = tuple(_strings(group, f"{name}, facts") for group in entry["facts"])
    for group in facts:
        if not any(text.lower() in answer.lower() for text in group):
            raise ValueError(f"{name} expects the fact {' or '.join(group)!r}, which its answer does not have")
    return Wording(tuple(_pattern(source, name) for source in ask), own_words, answer, facts)


def _strings(entry: Any, name: str) -> tuple[str, ...]:
    if not isinstance(entry, list) or not entry or not all(isinstance(text, str) and text.strip() for text in entry):
        raise ValueError(f"{name} is {entry!r:.80}, expected a list of texts (quote what YAML reads as something else)")
    return tuple(text.strip() for text in entry)


def _pattern(source: str, name: str) -> Pattern:
    pieces = _CHOICE.split(source)  # literal, choices, literal, ...
    parts = tuple(tuple(piece.split("|")) if index % 2 else (piece,) for index, piece in enumerate(pieces))
    count = 1
    for part in parts:
        count *= len(part)
    if count > MAX_READINGS or any("{" in piece or "}" in piece for piece in pieces):
        raise ValueError(f"{name} has the pattern {source!r}: braces must match, not nest, and stand for few readings")
    return Pattern(source, parts)


def _tidy(text: str) -> str:
    return " ".join(text.split())  # an alternative that is empty leaves two spaces


# Checking over all families


def check(found: Sequence[Family]) -> None:
    """ValueError if two families share an id or a phrasing, or a pattern yields somebody's own words."""
    if repeated := _repeated(family.id for family in found):
        raise ValueError(f"{repeated} is the id of two families")
    for language in LANGUAGES:
        own_words: dict[str, str] = {}
        for family in found:
            text = family.wordings[language].own_words
            if owner := own_words.get(form := _fold(text)):
                raise ValueError(f"{family.id} ({language}) has the own_words {text!r}, and so has {owner}")
            own_words[form] = family.id
        owners: dict[str, str] = {}
        for family in found:
            for pattern in family.wordings[language].ask:
                for form in map(_fold, pattern.readings()):
                    if form in own_words:
                        raise ValueError(
                            f"{family.id} ({language}): {pattern.source!r} yields the own_words of {own_words[form]}"
                        )
                    if (owner := owners.setdefault(form, family.id)) != family.id:
                        raise ValueError(f"{family.id} ({language}): {pattern.source!r} is asked by {owner}, too")


def _repeated(texts: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None


def _fold(text: str) -> str:
    """Letters and digits alone, in lower case: two texts that differ by typing habits become one."""
    return _NO_LETTER.sub("", text.lower())


_NO_LETTER = re.compile(r"[\W_]+")

# The same question as another sentence: what a reading must look like, and what it may become

_ABOUT = (
    "Tell me about {}",
    "I want to know about {}",
    "I have a question about {}",
    "I would like to hear about {}",
    "Can you say something about {}",
    "Give me some information about {}",
)
_ABOUT_ZH = (
    "讲讲{}",
    "说说{}",
    "我想了解{}",
    "我想问{}的事",
    "有个关于{}的问题",
    "给我讲一讲{}",
    "能说说{}吗",
    "请说明{}",
    "给我看看{}",
)
_FRAMES: Mapping[Language, tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]] = {
    "en": (
        (
            re.compile(r"How (?:do I|can I|to|should I) (.+)"),
            (
                "I want to {}",
                "I would like to {}",
                "I need to {}",
                "I am trying to {}",
                "Show me how to {}",
                "Tell me how to {}",
                "Is there a way to {}",
                "What is the way to {}",
                "I have to {}",
                "What do I type to {}",
                "Can you help me to {}",
                "Could you tell me how to {}",
            ),
        ),
        (
            re.compile(r"(?:Can|May|Could) I (.+)"),
            ("Is it possible to {}", "I wonder if I can {}", "I want to {}, can I"),
        ),
        (
            re.compile(r"What does (.+) do"),
            ("Tell me what {} does", "I want to know what {} does", "What is {} for", "Explain the use of {}", *_ABOUT),
        ),
        (re.compile(r"What does (.+) mean"), ("Explain what {} means", "I wonder what {} means", *_ABOUT)),
        (
            re.compile(
                r"What(?: is| are|'s) ((?:(?:the|a|an) )?\S+|(?:the|a|an) .+)(?<! for)(?<! about)(?<! called)(?<! of)"
            ),
            (
                "Explain {}",
                "Explain {} to me",
                "Could you explain {}",
                "Describe {}",
                "I do not understand {}",
                *_ABOUT,
            ),
        ),
        (
            re.compile(rf"({_KEYWORD}(?: {_KEYWORD}){{0,4}}?)(?: meaning| explained)?"),
            ("Help me with {}", "What about {}", *_ABOUT),
        ),
    ),
    "zh": (
        (
            re.compile(r"(?:怎么|如何|怎样)(?!样)(.+)"),
            (
                "我想{}",
                "我要{}，怎么做",
                "教我{}",
                "告诉我怎么{}",
                "有办法{}吗",
                "能教我{}吗",
                "{}的方法是什么",
                "{}该怎么做",
            ),
        ),
        (re.compile(r"(?:可以|能)(.+)吗"), ("我想{}，行吗", "能不能{}", "有没有可能{}", "{}可以吗")),
        (
            re.compile(r"([^，对我]+?)(?:有什么用|做什么|是做什么的)"),
            ("{}是干什么的", "{}的用处是什么", "{}起什么作用", *_ABOUT_ZH),
        ),
        (re.compile(r"什么是(.+)"), ("{}指的是什么", "请解释{}", "我不懂{}", *_ABOUT_ZH)),
        (re.compile(r"([^，我]+?)(?:是|到底是|究竟是)什么"), ("请解释{}", "我不懂{}", "{}指的是什么", *_ABOUT_ZH)),
        (re.compile(rf"((?:(?!{_VERBS_ZH})[^，]){{1,14}})"), ("关于{}", "帮我看看{}", *_ABOUT_ZH)),
    ),
}


def _reframed(rng: random.Random, text: str, language: Language) -> str:
    if rng.random() < 0.6:
        for pattern, frames in _FRAMES[language]:
            if match := pattern.fullmatch(text):
                return rng.choice(frames).format(_lower_first(match[1]) if language == "en" else match[1])
    return text


# What people add to a question, and leave out of it

_LOOSE = frozenset(
    ("a", "an", "and", "are", "as", "at", "can", "could", "did", "do", "does", "for", "i", "in", "is", "it", "me", "my",
     "of", "on", "the", "there", "to", "we", "would", "you")
)  # fmt: skip
_LOOSE_ZH = frozenset("的是了请我吗呢吧就都会要")


def _loosened(rng: random.Random, text: str, language: Language) -> str:
    """Without some of the words that say little, so that an answer hangs on no turn of phrase."""
    if rng.random() >= 0.25:
        return text
    between, loose = (" ", _LOOSE) if language == "en" else ("", _LOOSE_ZH)
    said = text.split(" ") if language == "en" else list(text)
    return between.join(word for word in said if word.lower() not in loose or rng.random() < 0.5) or text


_GREETINGS = ("Hi, ", "Hello, ", "Hey, ", "Hi! ", "Hello! ", "OK, ")
_LEADS = ("Please tell me: ", "Quick question: ", "A question: ", "One more question: ", "Tell me, ", "So, ", "And ")
_GREETINGS_ZH = ("你好，", "您好，")
_LEADS_ZH = ("请问，", "请问", "想问一下，", "问个问题：", "请告诉我，", "那么，")
_SUFFIXES: Mapping[Language, tuple[str, ...]] = {
    "en": (" Thanks!", " Thanks.", " Thank you!", " Thank you."),
    "zh": ("谢谢！", "谢谢。"),
}


def _typed(rng: random.Random, text: str, language: Language) -> str:
    return _typed_english(rng, text) if language == "en" else _typed_chinese(rng, text)


def _typed_english(rng: random.Random, text: str) -> str:
    is_question = _QUESTION.match(text) is not None
    if rng.random() < 0.02:
        text = _mistyped(rng, text)
    if rng.random() < 0.2:
        prefix = rng.choice((*_GREETINGS, *_LEADS) if is_question else _GREETINGS)
        text = prefix + (text if prefix.endswith("! ") else _lower_first(text))
    text += _drawn(rng, {"?": 0.7, "": 0.3} if is_question else {"": 0.5, "?": 0.15, ".": 0.35})
    if rng.random() < 0.05 and text.endswith(("?", ".")):
        text += rng.choice(_SUFFIXES["en"])
    habit = rng.random()
    if habit < 0.2:
        return text.lower()
    return _lower_first(text) if habit < 0.3 else text


def _typed_chinese(rng: random.Random, text: str) -> str:
    is_question = _QUESTION_ZH.search(text) is not None
    if rng.random() < 0.2:
        text = rng.choice((*_GREETINGS_ZH, *_LEADS_ZH) if is_question else _GREETINGS_ZH) + text
    text += _drawn(rng, {"？": 0.65, "": 0.3, "?": 0.05} if is_question else {"": 0.6, "？": 0.1, "。": 0.3})
    if rng.random() < 0.05 and text.endswith(("？", "。")):
        text += rng.choice(_SUFFIXES["zh"])
    return text.lower() if rng.random() < 0.2 else text


def _drawn(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _lower_first(text: str) -> str:
    """ "What is" as it stands inside a sentence; "RoPE", "I" and "I'm" keep their capital."""
    word = text.split(maxsplit=1)[0] if text else ""
    return text[0].lower() + text[1:] if len(word) > 1 and word.isalpha() and word[1:].islower() else text


def _mistyped(rng: random.Random, text: str) -> str:
    """Two neighbouring letters inside one plain word change places."""
    typed = text.split(" ")
    plain = [index for index, word in enumerate(typed) if len(word) > 4 and word.isalpha() and word.islower()]
    if not plain:
        return text
    index = rng.choice(plain)
    word = typed[index]
    at = rng.randrange(1, len(word) - 2)
    typed[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(typed)
