"""The corpus: exchanges strung into conversations, as token ids with what each weighs in the loss.

A stage's corpus is made in shards, each from a seed of its own, so that it is the same on any number of processes. On
disk a corpus is one .npz: all ids in a row, a byte for each that says how much its prediction weighs in the loss, and
where each conversation ends.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pronk.text import tiktoken_file
from pronk.text.chat import chat_format
from pronk.text.messages import ChatFormat, Message, Tool
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Skill, Split
from recipes.cria.plan import CorpusPlan, Plan
from recipes.cria.skills import arithmetic, guard, questions, stories, talk, tools

SKILLS: dict[str, Skill] = {
    "stories": stories, "questions": questions, "arithmetic": arithmetic, "talk": talk, "tools": tools, "guard": guard,
}  # fmt: skip
SYSTEM_PROMPTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "You are cria, a small and friendly assistant.", "You are a helpful assistant.",
        "You are a helpful AI assistant.",
        "You are cria, the built-in model of pronk.", "Answer briefly.", "Be kind and brief.",
        "You are a friendly assistant that speaks English and Chinese.",
    ),
    "zh": (
        "你是cria，一个小巧友好的助手。", "你是一个乐于助人的助手。", "你是pronk自带的小模型cria。", "请简短回答。",
        "你是一个会说中文和英文的助手。",
    ),
}  # fmt: skip
_SHARD_TOKENS = 500_000
_OPENING = 5  # tokens of an answer
_OPENING_QUESTIONS = 0.7  # the others are small talk


@dataclass(frozen=True)
class Weight:
    """What the tokens of one message weigh in the loss: the first, the `near` ones after it, and the rest."""

    first: int
    near: int
    rest: int
    count: int = 2  # of the near ones


# An answer is settled by its first words: after "RoPE rotates" nothing of it is open any more. A call is settled token
# by token, a verdict is five tokens after two hundred, and most of a story is chance but for its first sentence.
_WEIGHTS: Mapping[str, Weight] = {
    "stories": Weight(12, 12, 4, count=24), "questions": Weight(64, 40, 8, count=3), "arithmetic": Weight(32, 32, 32),
    "talk": Weight(48, 24, 12), "tools": Weight(56, 24, 12), "guard": Weight(40, 40, 40),
}  # fmt: skip
_CALL = Weight(56, 28, 28)
_DRILLED = Weight(14, 14, 14)  # a verdict among many under one policy
_PROSE = 3
_COPIED = 8  # of random tokens that come again
_HEARD = 2  # where what the assistant does not say counts at all


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools that are offered. `prose` is text that nobody asked for; then there are no messages."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    prose: str = ""
    weights: tuple[Weight, ...] = ()  # of the assistant's messages
    opening: bool = False  # only the first tokens of the last answer are learned from, and kept


@dataclass(frozen=True)
class Encoded:
    """Ids of one conversation; `weights[i]` is what the prediction of ids[i] from those before it weighs, 0 nothing."""

    ids: NDArray[np.uint16]
    weights: NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """`ends[i]` is the index after the last id of conversation i."""

    ids: NDArray[np.uint16]
    weights: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def conversation(self, index: int) -> Encoded:
        start = int(self.ends[index - 1]) if index else 0
        end = int(self.ends[index])
        return Encoded(self.ids[start:end], self.weights[start:end])

    def weight(self, members: Sequence[int]) -> int:
        """What these conversations weigh in the loss."""
        return sum(int(self.conversation(member).weights.sum()) for member in members)

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, weights=self.weights, ends=self.ends)

    @classmethod
    def load(cls, path: Path) -> Corpus:
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["weights"], arrays["ends"])


def compose(rng: random.Random, plan: CorpusPlan) -> Conversation:
    """One conversation of the training split."""
    language: Language = rng.choice(LANGUAGES)
    drawn = rng.random()
    if drawn < plan.prose:
        return Conversation(prose=stories.prose(rng, language))
    if drawn < plan.prose + plan.guard:
        return _joined([guard.exchange(rng, language, "train")])
    drawn -= plan.prose + plan.guard
    if drawn < plan.openings:
        return _opening(rng, language)
    drawn -= plan.openings
    if drawn < plan.tools:
        return _with_tools(rng, language, plan)
    if drawn < plan.tools + plan.sums:
        return _with_system(rng, language, _joined([_sum(rng, language) for _ in range(rng.randint(8, 20))]))
    if drawn < plan.tools + plan.sums + plan.verdicts:
        verdicts = _joined(guard.drill(rng, "train", rng.randint(8, 14)))
        return replace(verdicts, weights=(_DRILLED,) * len(verdicts.weights))
    turns = [_spoken(rng, language, plan) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6)))]
    return _with_system(rng, language, _joined(turns))


def copies(rng: random.Random, tokenizer: Tokenizer) -> Encoded:
    """Runs of random tokens that come again and again: all that can be known of them is what followed last time.

    Copying is what names, things and arguments take most, and nothing teaches it faster. Half of the time the tokens
    are few, so that one alone does not say what followed it: after the second half of 波波 comes no third.
    """
    special = tokenizer.special_ids
    bos, eos = special["<|begin_of_text|>"], special["<|end_of_text|>"]
    known = range(bos) if rng.random() < 0.5 else rng.sample(range(bos), rng.randint(4, 24))
    runs = [[rng.choice(known) for _ in range(rng.randint(2, 7))] for _ in range(rng.randint(3, 24))]
    again = [rng.choice(runs) for _ in range(rng.randint(len(runs), 2 * len(runs) + 8))]
    ids, weights = [bos], [0]
    for run in runs:
        ids += run
        weights += [0] * len(run)
    for run in again:
        ids += run
        weights += [0] + [_COPIED] * (len(run) - 1)
    return Encoded(np.array([*ids, eos], np.uint16), np.array([*weights, 0], np.uint8))


def encode(chat: ChatFormat, conversation: Conversation, plain_loss: bool) -> Encoded:
    """`plain_loss` counts all but the first id; otherwise what the assistant says and the token that ends its turn."""
    tokenizer: Tokenizer = chat.tokenizer  # type: ignore[attr-defined]
    special = tokenizer.special_ids
    if conversation.prose:
        ids = [*tokenizer.encode(conversation.prose, bos=True), special["<|end_of_text|>"]]
        weights = [_PROSE] * len(ids)
    else:
        header = _header(tokenizer)
        ids = chat.encode(conversation.messages, conversation.tools)[: -len(header)]
        ends = frozenset({special["<|eot_id|>"], special["<|eom_id|>"]})
        heard = _HEARD if plain_loss else 0
        weights = _weights(ids, header, ends, conversation.weights, heard)
        if conversation.opening:
            end = _cut(ids, weights)
            ids, weights = ids[:end], weights[:end]
    weights[0] = 0
    return Encoded(np.array(ids, np.uint16), np.array(weights, np.uint8))


def make(plan: Plan, stage: CorpusPlan, salt: str, tokenizer_file: bytes, processes: int = 1) -> Corpus:
    """All shards of one corpus. `salt` tells corpora of one plan apart."""
    shards = max(1, round(stage.tokens / _SHARD_TOKENS))
    share = -(-stage.tokens // shards)
    jobs = [(plan, stage, f"{plan.seed} {salt} {shard}", share, tokenizer_file) for shard in range(shards)]
    if processes == 1 or shards == 1:
        return _joined_corpora([_shard(job) for job in jobs])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return _joined_corpora(pool.map(_shard, jobs, chunksize=1))


def held_back_plan(plan: Plan) -> CorpusPlan:
    """What the loss is measured on: the mixture of conversations, from seeds that training does not use."""
    finetune = next(stage for stage in plan.stages if stage.name == "finetune")
    return replace(finetune.corpus, tokens=plan.held_back_tokens)


def texts(plan: Plan) -> Iterator[str]:
    """What the tokenizer learns from: conversations as the model will read them, and prose."""
    rng = random.Random(f"{plan.seed} tokenizer")
    for _ in range(plan.tokenizer_texts):
        conversation = compose(rng, plan.stages[0].corpus)
        if conversation.prose:
            yield conversation.prose
        yield from _plain_texts(conversation)


def prose(split: Split, seed: int, count: int = 150) -> str:
    """Stories and answers as cria is to write them, `count` of each in each language, to measure perplexity on."""
    rng = random.Random(seed)
    made = [
        skill.exchange(rng, language, split).messages[-1].content
        for skill in (stories, questions)
        for language in LANGUAGES
        for _ in range(count)
    ]
    rng.shuffle(made)
    return "\n\n".join(made)


@cache
def load_tokenizer(tokenizer_file: bytes) -> Tokenizer:
    return build_tokenizer(tiktoken_file.read(tokenizer_file))


@cache
def load_chat(tokenizer_file: bytes) -> ChatFormat:
    """cria's chat format: Llama 3.1's, with JSON calls."""
    return chat_format(load_tokenizer(tokenizer_file), variant="llama3.1")


def _with_tools(rng: random.Random, language: Language, plan: CorpusPlan) -> Conversation:
    """Several requests to one toolbox, with small talk between them."""
    box = tools.toolbox(rng, "train", "en" if rng.random() < tools.ENGLISH_TOOLS else language)
    turns = []
    for _ in range(rng.choice(plan.tool_turns)):
        if rng.random() < 0.15:
            turns.append(_spoken(rng, language, plan))
        else:
            turns.append(tools.exchange(rng, language, "train", box))
    return _with_system(rng, language, replace(_joined(turns), tools=box))


def _opening(rng: random.Random, language: Language) -> Conversation:
    """A question, and the few tokens that settle what is answered: less than half of what the whole costs."""
    skill = questions if rng.random() < _OPENING_QUESTIONS else talk
    return replace(_joined([skill.exchange(rng, language, "train")]), opening=True)


def _sum(rng: random.Random, language: Language) -> Exchange:
    return arithmetic.exchange(rng, language, "train")


def _spoken(rng: random.Random, language: Language, plan: CorpusPlan) -> Exchange:
    name = rng.choices(list(plan.shares), weights=list(plan.shares.values()))[0]
    if rng.random() < 0.05:  # people change the language in the middle
        language = "zh" if language == "en" else "en"
    return SKILLS[name].exchange(rng, language, "train")


def _joined(turns: Sequence[Exchange]) -> Conversation:
    said = [(turn, message) for turn in turns for message in turn.messages if message.role == "assistant"]
    weights = (_CALL if message.tool_calls else _WEIGHTS[turn.skill] for turn, message in said)
    return Conversation(tuple(message for turn in turns for message in turn.messages), weights=tuple(weights))


def _with_system(rng: random.Random, language: Language, conversation: Conversation) -> Conversation:
    """Sometimes with a system message before it."""
    if rng.random() < 0.15 and conversation.messages[0].role != "system":
        system = Message("system", rng.choice(SYSTEM_PROMPTS[language]))
        return replace(conversation, messages=(system, *conversation.messages))
    return conversation


def _plain_texts(conversation: Conversation) -> Iterator[str]:
    from pronk.text.llama3_tools import calls_text, tools_text

    if conversation.tools:
        yield tools_text("json", conversation.tools)
    for message in conversation.messages:
        if message.content:
            yield message.content
        if message.tool_calls:
            yield calls_text("json", message.tool_calls)


def _header(tokenizer: Tokenizer) -> list[int]:
    special = tokenizer.special_ids
    words = tokenizer.encode("assistant", bos=False)
    return [
        special["<|start_header_id|>"], *words, special["<|end_header_id|>"], *tokenizer.encode("\n\n", bos=False)
    ]  # fmt: skip


def _weights(
    ids: Sequence[int], header: Sequence[int], ends: frozenset[int], said: Sequence[Weight], heard: int
) -> list[int]:
    """What each id weighs: said[i] for what follows the assistant's i-th header, the token that ends the turn
    included; `heard` all else."""
    weights, turn, place = [heard] * len(ids), -1, -1  # the place in what the assistant says, -1 outside
    for index, token in enumerate(ids):
        if place < 0 and token == header[-1] and list(ids[index + 1 - len(header) : index + 1]) == list(header):
            turn, place = turn + 1, 0
        elif place >= 0:
            weight = said[turn]
            weights[index] = weight.first if not place else weight.near if place <= weight.count else weight.rest
            place = -1 if token in ends else place + 1
    if turn + 1 != len(said):
        raise ValueError(f"{turn + 1} turns of the assistant were found, expected {len(said)}")
    return weights


def _cut(ids: Sequence[int], weights: Sequence[int]) -> int:
    """Where an opening ends: after the first tokens of the last answer."""
    last = next(index for index in range(len(ids) - 1, 0, -1) if weights[index] and not weights[index - 1])
    return min(last + _OPENING, len(ids))


def _shard(job: tuple[Plan, CorpusPlan, str, int, bytes]) -> Corpus:
    plan, stage, seed, tokens, tokenizer_file = job
    rng, chat = random.Random(seed), load_chat(tokenizer_file)
    made: list[Encoded] = []
    total = 0
    while total < tokens:
        copying = rng.random() < stage.copies
        encoded = (
            copies(rng, load_tokenizer(tokenizer_file))
            if copying
            else encode(chat, compose(rng, stage), stage.plain_loss)
        )
        if len(encoded.ids) <= plan.longest:
            made.append(encoded)
            total += len(encoded.ids)
    return _corpus(made)


def _corpus(made: Sequence[Encoded]) -> Corpus:
    ends = np.cumsum([len(one.ids) for one in made], dtype=np.int64)
    return Corpus(np.concatenate([one.ids for one in made]), np.concatenate([one.weights for one in made]), ends)


def _joined_corpora(corpora: Sequence[Corpus]) -> Corpus:
    offsets = np.cumsum([0, *(len(corpus.ids) for corpus in corpora[:-1])], dtype=np.int64)
    return Corpus(
        np.concatenate([corpus.ids for corpus in corpora]),
        np.concatenate([corpus.weights for corpus in corpora]),
        np.concatenate([corpus.ends + offset for corpus, offset in zip(corpora, offsets, strict=True)]),
    )
