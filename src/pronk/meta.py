"""Meta's own Python face (meta-llama/llama3, `llama/generation.py` and `llama/tokenizer.py`), over pronk.

A script written for their repository runs with one import changed:

    from pronk.meta import Dialog, Llama

What differs, on purpose: any number of shards in one process, no GPU and no torchrun; more prompts than max_batch_size
take turns; a stop token inside an echoed prompt does not cut the output; log probabilities stay with their tokens; a
checkpoint with missing weights is refused; a prompt that is too long is a RequestError, not a failed assert.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

from pronk import api
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.tokenizer_files import fitting, read_model_file
from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.errors import CheckpointError, RequestError, TokenizerError
from pronk.results import Completion
from pronk.text import messages
from pronk.text.chat import chat_format
from pronk.text.tokenizer import Tokenizer as PronkTokenizer

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    role: Role
    content: str


Dialog = Sequence[Message]


class CompletionPrediction(TypedDict, total=False):
    generation: str
    tokens: list[str]  # with logprobs only
    logprobs: list[float]


class ChatPrediction(TypedDict, total=False):
    generation: Message
    tokens: list[str]  # with logprobs only
    logprobs: list[float]


class Tokenizer:
    """A `tokenizer.model`, Llama 3's (with the special tokens of 3.0, or those of 3.1) or Llama 2's. `inner` is pronk's
    tokenizer of it. Raises TokenizerError."""

    def __init__(self, model_path: str | Path, *, llama3_1: bool = False) -> None:
        self.inner: PronkTokenizer = read_model_file(Path(model_path), llama3_1=llama3_1)
        vocabulary = self.inner.vocabulary
        assert vocabulary is not None, "both kinds of file are plain vocabularies"
        self.special_tokens: dict[str, int] = dict(self.inner.special_ids)
        self.n_words = self.inner.vocab_size
        self.bos_id = -1 if vocabulary.bos_id is None else vocabulary.bos_id
        self.eos_id = -1 if vocabulary.eos_id is None else vocabulary.eos_id
        self.pad_id = -1 if vocabulary.pad_id is None else vocabulary.pad_id
        self.stop_tokens = set(self.inner.stop_ids)
        # Meta's tiktoken decoder shows control tokens, sentencepiece's does not.
        self._shown = {i: text for text, i in self.special_tokens.items()} if vocabulary.model == "bpe" else {}

    def encode(
        self,
        s: str,
        bos: bool,
        eos: bool,
        allowed_special: Literal["all"] | AbstractSet[str] = frozenset(),
        disallowed_special: Literal["all"] | Collection[str] = (),
    ) -> list[int]:
        """Ids of s. Special tokens in it are text, unless allowed; raises TokenizerError for a disallowed one."""
        allowed = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
        disallowed = set(self.special_tokens) - allowed if disallowed_special == "all" else set(disallowed_special)
        for text in disallowed:
            if text in s:
                raise TokenizerError(f"the text has the special token {text!r}, which disallowed_special forbids")
        ids = [self.bos_id] if bos else []
        for part in _parted(s, allowed & set(self.special_tokens)):
            ids += [self.special_tokens[part]] if part in allowed else self.inner.encode(part, bos=False)
        return [*ids, self.eos_id] if eos else ids

    def decode(self, t: Sequence[int]) -> str:
        """Text of ids; Llama 3's control tokens by name."""
        groups = itertools.groupby(t, key=lambda token: token in self._shown)
        return "".join(
            "".join(self._shown[token] for token in tokens) if shown else self.inner.decode(tokens)
            for shown, tokens in groups
        )


class ChatFormat:
    """Llama 3's chat format, piece by piece as Meta's class has it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode_header(self, message: Message) -> list[int]:
        special, encode = self.tokenizer.special_tokens, self.tokenizer.inner.encode
        role, gap = encode(message["role"], bos=False), encode("\n\n", bos=False)
        return [special["<|start_header_id|>"], *role, special["<|end_header_id|>"], *gap]

    def encode_message(self, message: Message) -> list[int]:
        content = self.tokenizer.inner.encode(message["content"].strip(), bos=False)
        return [*self.encode_header(message), *content, self.tokenizer.special_tokens["<|eot_id|>"]]

    def encode_dialog_prompt(self, dialog: Dialog) -> list[int]:
        """Ids of the whole conversation, ending where the assistant speaks; Llama 2's format for its tokenizer."""
        tokenizer = self.tokenizer.inner
        variant = "llama3" if "<|eot_id|>" in tokenizer.special_ids else "llama2"
        conversation = [messages.Message(m["role"], m["content"]) for m in dialog]
        return chat_format(tokenizer, variant=variant).encode(conversation)


class Llama:
    """Made by `build`. `seed` is the first prompt's; each later one of this object counts on from there."""

    def __init__(self, model: api.Llama, tokenizer: Tokenizer, seed: int = 1) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.formatter = ChatFormat(tokenizer)
        self._seeds = itertools.count(seed)

    @staticmethod
    def build(
        ckpt_dir: str,
        tokenizer_path: str,
        max_seq_len: int,
        max_batch_size: int,
        model_parallel_size: int | None = None,
        seed: int = 1,
    ) -> Llama:
        """Open `ckpt_dir`, of any format and any number of shards. `model_parallel_size` is taken and not needed.

        Raises CheckpointError, TokenizerError; RequestError for a max_seq_len longer than the model's context.
        """
        if not Path(ckpt_dir).is_dir():
            raise CheckpointError(f"checkpoint directory {ckpt_dir!r} does not exist")
        config = open_checkpoint(ckpt_dir).config
        tokenizer = Tokenizer(tokenizer_path, llama3_1=config.rope_scaling is not None)
        fitting(tokenizer.inner, config, tokenizer_path)
        model = api.load(
            ckpt_dir,
            context=max_seq_len,
            max_sequences=max_batch_size,
            token_budget=max(512, max_batch_size),
            tokenizer=tokenizer.inner,
        )
        return Llama(model, tokenizer, seed)

    def generate(
        self,
        prompt_tokens: list[list[int]],
        max_gen_len: int,
        temperature: float = 0.6,
        top_p: float = 0.9,
        logprobs: bool = False,
        echo: bool = False,
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Ids of each answer, cut before its stop token, and their log probabilities if asked for. With `echo` the
        prompt's come first (0.0 for its first token, which nothing predicts).

        An answer ends at a stop token, after max_gen_len tokens, or where it fills max_seq_len.
        """
        params = SamplingParams(
            temperature=temperature,
            top_p=top_p,
            temperature_first=True,
            max_tokens=max_gen_len,
            logprobs=0 if logprobs else None,
            prompt_logprobs=0 if logprobs and echo else None,
        )
        requests = [Request(tuple(ids), replace(params, seed=next(self._seeds))) for ids in prompt_tokens]
        answers = self.model.run(requests).results
        tokens = [
            [*(ids if echo else ()), *answer.token_ids] for ids, answer in zip(prompt_tokens, answers, strict=True)
        ]
        return tokens, [_values(answer) for answer in answers] if logprobs else None

    def text_completion(
        self,
        prompts: list[str],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
        echo: bool = False,
    ) -> list[CompletionPrediction]:
        """Continue texts; bos is put in front of each."""
        ids = [self.tokenizer.encode(prompt, bos=True, eos=False) for prompt in prompts]
        answers, scores = self.generate(ids, self._length(max_gen_len), temperature, top_p, logprobs, echo)
        if scores is None:
            return [{"generation": self.tokenizer.decode(answer)} for answer in answers]
        return [
            {"generation": self.tokenizer.decode(answer), "tokens": self._tokens(answer), "logprobs": values}
            for answer, values in zip(answers, scores, strict=True)
        ]

    def chat_completion(
        self,
        dialogs: list[Dialog],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
    ) -> list[ChatPrediction]:
        """Answer conversations. Raises ChatFormatError for one that the model's format cannot say."""
        ids = [self.formatter.encode_dialog_prompt(dialog) for dialog in dialogs]
        answers, scores = self.generate(ids, self._length(max_gen_len), temperature, top_p, logprobs)
        generations: list[Message] = [
            {"role": "assistant", "content": self.tokenizer.decode(answer)} for answer in answers
        ]
        if scores is None:
            return [{"generation": generation} for generation in generations]
        return [
            {"generation": generation, "tokens": self._tokens(answer), "logprobs": values}
            for generation, answer, values in zip(generations, answers, scores, strict=True)
        ]

    def _length(self, max_gen_len: int | None) -> int:
        if max_gen_len is not None and max_gen_len < 0:
            raise RequestError(f"max_gen_len is {max_gen_len}, expected at least 0")
        return self.model.context - 1 if max_gen_len is None else max_gen_len

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself; bytes that are no whole character as <0xE4>."""
        return [self.tokenizer.inner.token_text(token) for token in ids]


def _values(answer: Completion) -> list[float]:
    scores: list[TokenLogprob] = [*answer.prompt_logprobs, *answer.logprobs]
    return [0.0 if score.logprob is None else score.logprob for score in scores]


def _parted(text: str, at: AbstractSet[str]) -> list[str]:
    """Text cut around every occurrence of the strings in `at`, which are kept."""
    if not at:
        return [text] if text else []
    pattern = "|".join(re.escape(part) for part in sorted(at, key=len, reverse=True))
    return [part for part in re.split(f"({pattern})", text) if part]
