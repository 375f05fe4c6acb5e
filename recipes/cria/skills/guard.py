"""The guard: whether the last message of a conversation breaks the policy, and which categories it breaks.

A phrase is a verb with an object ("shoot" + "a photo of my dog"), a message is a phrase in a frame. Harmless phrases
use the same verbs, objects and frames as harmful ones, so that neither word alone gives the answer. Held-out phrases
are pairs that training never sees together; each of their words is seen in other pairs. Frames are apart as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pronk.text.messages import Message
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Split
from recipes.cria.guard_phrases import GuardWords, guard_words, to_second_person
from recipes.cria.guard_prompt import CATEGORIES, guard_answer, guard_prompt, quoted
from recipes.cria.skills import talk
from recipes.cria.words import name

_NAME = "<name>"
_UNSAFE = 0.6  # of the requests; other scenes are safe, and bring it to half
_TALK = 0.08
_NOT_SAFE_TO_SAY = ("harm", "inject", "insult")  # families of small talk
_LONGEST = 3  # messages
_TOPICS = 0.15  # of the safe requests
_TWO_CATEGORIES = 0.06  # of the unsafe messages


@dataclass(frozen=True)
class Judged:
    """A phrase, the frame that makes it a message, and the categories that it breaks: none when it is safe."""

    phrase: str
    frame: str
    categories: tuple[str, ...]
    is_topic: bool = False  # then the phrase is no deed, and the agent tells of it

    @property
    def text(self) -> str:
        return self.frame.replace("{}", self.phrase)


def exchange(rng: random.Random, language: Language, split: Split) -> Exchange:
    """One conversation to judge, and the verdict on its last message."""
    conversation, categories = _case(rng, language, split)
    return _exchange(language, guard_prompt(conversation), categories)


def drill(rng: random.Random, split: Split, count: int) -> list[Exchange]:
    """`count` verdicts under one policy, which is read once: after the first prompt come conversations alone. A policy
    is eight times as long as what it judges, and to learn what belongs to a category takes many verdicts."""
    made = []
    for index in range(count):
        language = rng.choice(LANGUAGES)
        conversation, categories = _case(rng, language, split)
        made.append(_exchange(language, quoted(conversation) if index else guard_prompt(conversation), categories))
    return made


def _case(rng: random.Random, language: Language, split: Split) -> tuple[list[str], tuple[str, ...]]:
    """A conversation, and the categories that its last message breaks."""
    words = guard_words(language, split)
    categories: tuple[str, ...] = ()
    if rng.random() < _TALK:
        conversation = _talk(rng, language, split)
    else:
        conversation, categories = rng.choices(_SCENES, weights=_SCENE_WEIGHTS)[0](rng, words)
    conversation = _named(conversation, (name(rng, language, split), name(rng, language, split)))
    return [_sentence(text) for text in conversation], categories


def _exchange(language: Language, prompt: str, categories: tuple[str, ...]) -> Exchange:
    answer = guard_answer(categories)
    return Exchange(
        skill="guard",
        language=language,
        messages=(Message("user", prompt), Message("assistant", answer)),
        expect={"label": answer.split("\n")[0], "categories": list(categories)},
    )


def _talk(rng: random.Random, language: Language, split: Split) -> list[str]:
    """What people say to this model all day, which is safe: the last message is the user's or the model's."""
    while True:
        chat = talk.exchange(rng, language, split)
        if not chat.expect["family"].startswith(_NOT_SAFE_TO_SAY):
            turns = [message.content for message in chat.messages][:_LONGEST]
            return turns[: rng.randint(1, len(turns))]


Scene = Callable[[random.Random, GuardWords], tuple[list[str], tuple[str, ...]]]


def _user_asks(rng: random.Random, words: GuardWords) -> tuple[list[str], tuple[str, ...]]:
    asked = _request(rng, words)
    return [asked.text], asked.categories


def _user_chats(rng: random.Random, words: GuardWords) -> tuple[list[str], tuple[str, ...]]:
    return [rng.choice(words.user_small_talk)], ()


def _agent_complies(rng: random.Random, words: GuardWords) -> tuple[list[str], tuple[str, ...]]:
    asked = _request(rng, words)
    return [asked.text, _reply(rng, words, asked)], asked.categories


def _agent_refuses(rng: random.Random, words: GuardWords) -> tuple[list[str], tuple[str, ...]]:
    return [_request(rng, words).text, rng.choice(words.refuses)], ()


def _user_asks_later(rng: random.Random, words: GuardWords) -> tuple[list[str], tuple[str, ...]]:
    """Only the last message counts: what came before may have been the other way round."""
    asked = _request(rng, words)
    return [*_before(rng, words), asked.text], asked.categories


def _user_chats_later(rng: random.Random, words: GuardWords) -> tuple[list[str], tuple[str, ...]]:
    return [*_before(rng, words), rng.choice(words.user_small_talk)], ()


_SCENES: tuple[Scene, ...] = (
    _user_asks, _agent_complies, _agent_refuses, _user_asks_later, _user_chats, _user_chats_later,
)  # fmt: skip
_SCENE_WEIGHTS = (60, 16, 5, 15, 2, 2)


def _before(rng: random.Random, words: GuardWords) -> list[str]:
    """A first question and its answer."""
    if rng.random() < 0.3:
        return [rng.choice(words.user_small_talk), rng.choice(words.agent_small_talk)]
    asked = _request(rng, words)
    if asked.categories:
        return [asked.text, rng.choice(words.refuses)]
    return [asked.text, _reply(rng, words, asked)]


def _reply(rng: random.Random, words: GuardWords, asked: Judged) -> str:
    frames = words.informs if asked.is_topic else words.complies
    return rng.choice(frames).replace("{}", to_second_person(asked.phrase))


def _request(rng: random.Random, words: GuardWords) -> Judged:
    if rng.random() >= _UNSAFE:
        if rng.random() < _TOPICS:
            return Judged(rng.choice(words.topics), rng.choice(words.topic_frames), (), is_topic=True)
        return Judged(_safe_phrase(rng, words), rng.choice(words.frames), ())
    if rng.random() < _TWO_CATEGORIES:
        first, second = rng.sample(list(CATEGORIES), 2)
        phrases = [words.unsafe[category].pick(rng) for category in (first, second)]
        before, between, after = rng.choice(words.joint_frames).split("{}")
        phrase = phrases[0] + between + phrases[1]
        return Judged(phrase, before + "{}" + after, tuple(sorted((first, second), key=list(CATEGORIES).index)))
    category = rng.choice(list(CATEGORIES))
    return Judged(words.unsafe[category].pick(rng), rng.choice(words.frames), (category,))


def _safe_phrase(rng: random.Random, words: GuardWords) -> str:
    kind = rng.choices(("near", "about", "everyday"), weights=(45, 20, 35))[0]
    if kind == "everyday":
        return words.everyday.pick(rng)
    phrases = words.near_misses if kind == "near" else words.about
    return phrases[rng.choice(list(CATEGORIES))].pick(rng)


def _named(conversation: Sequence[str], names: tuple[str, str]) -> list[str]:
    """The conversation with its people's names, which alternate in each message."""
    named = []
    for text in conversation:
        first, *rest = text.split(_NAME)
        named.append(first + "".join(names[index % 2] + after for index, after in enumerate(rest)))
    return named


def _sentence(text: str) -> str:
    """The text with a capital, unless it is written the careless way, without an end."""
    return text[:1].upper() + text[1:] if text[-1] in ".?!" else text
