"""The corpus: exchanges strung into conversations, as token ids with the places that count in the loss.

A stage's corpus is made in shards, each from a seed of its own, so that it is the same on any number of processes. On
disk a corpus is one .npz: all ids in a row, a byte for each that says whether the loss counts its prediction, and
where each conversation ends.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
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
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Skill
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


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools that are offered. `prose` is text that nobody asked for; then there are no messages."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    prose: str = ""


@dataclass(frozen=True)
class Encoded:
    """Ids of one conversation; `counts[i]` says that ids[i] is to be predicted from those before it."""

    ids: NDArray[np.uint16]
    counts: NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """`ends[i]` is the index after the last id of conversation i."""

    ids: NDArray[np.uint16]
    counts: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def conversation(self, index: int) -> Encoded:
        start = int(self.ends[index - 1]) if index else 0
        end = int(self.ends[index])
        return Encoded(self.ids[start:end], self.counts[start:end])

    def counted(self, members: Sequence[int]) -> int:
        """Ids of these conversations that count in the loss."""
        return sum(int(self.conversation(member).counts.sum()) for member in members)

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, counts=self.counts, ends=self.ends)

    @classmethod
    def load(cls, path: Path) -> Corpus:
        with np.load(path) as arrays:
            return cls(arrays["ids"], arrays["counts"], arrays["ends"])


def compose(rng: random.Random, plan: CorpusPlan) -> Conversation:
    """One conversation of the training split."""
    language: Language = rng.choice(LANGUAGES)
    drawn = rng.random()
    if drawn < plan.prose:
        return Conversation(prose=stories.prose(rng, language))
    if drawn < plan.prose + plan.guard:
        return Conversation(guard.exchange(rng, language, "train").messages)
    if drawn < plan.prose + plan.guard + plan.tools:
        return _with_tools(rng, language, plan)
    if drawn < plan.prose + plan.guard + plan.tools + plan.drills:
        return Conversation(_joined(rng, language, [_sum(rng, language) for _ in range(rng.randint(8, 20))]))
    turns = [_spoken(rng, language, plan) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6)))]
    return Conversation(_joined(rng, language, turns))


def encode(chat: ChatFormat, conversation: Conversation, plain_loss: bool) -> Encoded:
    """`plain_loss` counts all but the first id; otherwise what the assistant says and the token that ends its turn."""
    special = chat.tokenizer.special_ids  # type: ignore[attr-defined]
    tokenizer: Tokenizer = chat.tokenizer  # type: ignore[attr-defined]
    if conversation.prose:
        ids = [*tokenizer.encode(conversation.prose, bos=True), special["<|end_of_text|>"]]
        spoken = [False] + [True] * (len(ids) - 1)
    else:
        header = _header(tokenizer)
        ids = chat.encode(conversation.messages, conversation.tools)[: -len(header)]
        spoken = _spoken_places(ids, header, frozenset({special["<|eot_id|>"], special["<|eom_id|>"]}))
    counts = np.ones(len(ids), np.uint8) if plain_loss else np.array(spoken, np.uint8)
    counts[0] = 0
    return Encoded(np.array(ids, np.uint16), counts)


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
    """What the loss is measured on: the last stage's mixture, from seeds that training does not use."""
    return replace(plan.stages[-1].corpus, tokens=plan.held_back_tokens)


def texts(plan: Plan) -> Iterator[str]:
    """What the tokenizer learns from: conversations as the model will read them, and prose."""
    rng = random.Random(f"{plan.seed} tokenizer")
    for _ in range(plan.tokenizer_texts):
        conversation = compose(rng, plan.stages[0].corpus)
        if conversation.prose:
            yield conversation.prose
        yield from _plain_texts(conversation)


@cache
def load_chat(tokenizer_file: bytes) -> ChatFormat:
    """cria's chat format: Llama 3.1's, with JSON calls."""
    return chat_format(build_tokenizer(tiktoken_file.read(tokenizer_file)), variant="llama3.1")


def _with_tools(rng: random.Random, language: Language, plan: CorpusPlan) -> Conversation:
    """Several requests to one toolbox, with small talk between them."""
    box = tools.toolbox(rng, "train", "en" if rng.random() < tools.ENGLISH_TOOLS else language)
    turns = []
    for _ in range(rng.choice(plan.tool_turns)):
        if rng.random() < 0.15:
            turns.append(_spoken(rng, language, plan))
        else:
            turns.append(tools.exchange(rng, language, "train", box))
    return Conversation(_joined(rng, language, turns), box)


def _sum(rng: random.Random, language: Language) -> Exchange:
    return arithmetic.exchange(rng, language, "train")


def _spoken(rng: random.Random, language: Language, plan: CorpusPlan) -> Exchange:
    name = rng.choices(list(plan.shares), weights=list(plan.shares.values()))[0]
    if rng.random() < 0.05:  # people change the language in the middle
        language = "zh" if language == "en" else "en"
    return SKILLS[name].exchange(rng, language, "train")


def _joined(rng: random.Random, language: Language, turns: Sequence[Exchange]) -> tuple[Message, ...]:
    messages = tuple(message for turn in turns for message in turn.messages)
    if rng.random() < 0.15 and messages[0].role != "system":
        return (Message("system", rng.choice(SYSTEM_PROMPTS[language])), *messages)
    return messages


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


def _spoken_places(ids: Sequence[int], header: Sequence[int], ends: frozenset[int]) -> list[bool]:
    """Which ids the assistant says: what follows its header, the token that ends the turn included."""
    spoken, speaking = [False] * len(ids), False
    for index, token in enumerate(ids):
        if not speaking and token == header[-1] and list(ids[index + 1 - len(header) : index + 1]) == list(header):
            speaking = True
        elif speaking:
            spoken[index] = True
            speaking = token not in ends
    return spoken


def _shard(job: tuple[Plan, CorpusPlan, str, int, bytes]) -> Corpus:
    plan, stage, seed, tokens, tokenizer_file = job
    rng, chat = random.Random(seed), load_chat(tokenizer_file)
    made: list[Encoded] = []
    total = 0
    while total < tokens:
        encoded = encode(chat, compose(rng, stage), stage.plain_loss)
        if len(encoded.ids) <= plan.longest:
            made.append(encoded)
            total += len(encoded.ids)
    return _corpus(made)


def _corpus(made: Sequence[Encoded]) -> Corpus:
    ends = np.cumsum([len(one.ids) for one in made], dtype=np.int64)
    return Corpus(np.concatenate([one.ids for one in made]), np.concatenate([one.counts for one in made]), ends)


def _joined_corpora(corpora: Sequence[Corpus]) -> Corpus:
    offsets = np.cumsum([0, *(len(corpus.ids) for corpus in corpora[:-1])], dtype=np.int64)
    return Corpus(
        np.concatenate([corpus.ids for corpus in corpora]),
        np.concatenate([corpus.counts for corpus in corpora]),
        np.concatenate([corpus.ends + offset for corpus, offset in zip(corpora, offsets, strict=True)]),
    )
