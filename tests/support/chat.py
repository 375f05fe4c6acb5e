"""What the tests of chat formats share: tokenizers of real files, and an encoder that is not ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tiktoken
from tiktoken.load import load_tiktoken_bpe

from pronk.text.messages import Answer, AnswerParser, ToolCall
from pronk.text.sentencepiece_file import read as read_spm
from pronk.text.tiktoken_file import Specials, special_tokens
from pronk.text.tiktoken_file import read as read_tiktoken
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer

LLAMA3_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


@lru_cache
def llama3_tokenizer(data: Path, special: Specials = "llama3.1") -> Tokenizer:
    return build_tokenizer(read_tiktoken(data / "tokenizers/llama3/tokenizer.model", special=special))


@lru_cache
def llama2_tokenizer(data: Path) -> Tokenizer:
    return build_tokenizer(read_spm(data / "tokenizers/llama2/tokenizer.model"))


@lru_cache
def _tiktoken(data: Path) -> tiktoken.Encoding:
    ranks = load_tiktoken_bpe(str(data / "tokenizers/llama3/tokenizer.model"))
    special = {name: 128000 + i for i, name in enumerate(special_tokens("llama3.1"))}
    return tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special)


def tiktoken_ids(data: Path, text: str) -> list[int]:
    """Ids of a rendered Llama 3.1 prompt by tiktoken alone. A header's two newlines are a piece, as in Meta's code."""
    encoding = _tiktoken(data)
    pieces = re.split(r"(?<=<\|end_header_id\|>)(\n\n)", text)
    return [token for piece in pieces for token in encoding.encode(piece, allowed_special="all")]


def read_answer(parser: AnswerParser, chunks: Sequence[Sequence[int]]) -> Answer:
    """The whole answer from ids that arrive in chunks."""
    deltas = [*(parser.feed(chunk) for chunk in chunks), parser.finish()]
    calls = tuple(call for delta in deltas for call in delta.tool_calls)
    return Answer("".join(delta.content for delta in deltas), calls)


def plain(calls: Sequence[ToolCall]) -> list[tuple[str, dict[str, Any]]]:
    """Calls without their ids, to compare."""
    return [(call.name, dict(call.arguments)) for call in calls]
