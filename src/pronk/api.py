"""pronk's Python face: `load` a model, then chat, complete, score, embed, serve.

    llama = pronk.load("cria")
    print(llama.chat("Tell me a story about a llama.").text)

A Llama may be used from several threads at once; what they ask for runs together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from pronk import arguments
from pronk.arguments import MessageLike, Prompt, ToolLike
from pronk.backends import make_backend
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.lora_reader import open_lora, parse_spec
from pronk.checkpoints.open import open_checkpoint
from pronk.config import KvType, ModelConfig
from pronk.engine.config import EngineConfig, engine_config
from pronk.engine.draft import make_draft
from pronk.engine.engine import Engine
from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Request
from pronk.engine.runner import Runner
from pronk.engine.sampling import SamplingParams
from pronk.engine.service import EngineService
from pronk.errors import RequestError, TokenizerError
from pronk.model.embedding import Pooling, embed
from pronk.model.llama import LlamaModel, load_model
from pronk.model.lora import Adapters, everywhere
from pronk.model.perplexity import Perplexity, perplexity
from pronk.results import ChatResult, ChatStream, Completion, CompletionStream, Piece
from pronk.text.chat import chat_format as make_chat_format
from pronk.text.messages import ChatFormat
from pronk.text.tokenizer import Tokenizer

__all__ = ["ChatResult", "ChatStream", "Completion", "CompletionStream", "Llama", "Piece", "load"]


def load(
    spec: str | Path,
    *,
    backend: str = "cpu",
    threads: int | None = None,
    context: int | None = None,
    kv_type: KvType = "f16",
    dtype: str | None = None,
    chat_format: str | None = None,
    max_sequences: int = 16,
    token_budget: int = 512,
    pages: int | None = None,
    prefill_chunk: int = 128,
    tokenizer: Tokenizer | None = None,
    draft: str | Path | None = None,
    lookup: bool = False,
    draft_tokens: int = 8,
    lora: str | Path | Sequence[str | Path] = (),
) -> Llama:
    """Open a model: a file or directory of any format, "hf:org/name", a pulled name, or "random:SHAPE[:TYPE]".

    context: tokens of one conversation, prompt and answer; by default the model's own, at most 8192.
    kv_type: of the key/value cache: "f16", "f32", or "q8_0", about half of f16's memory.
    dtype: what the torch backends compute in; the cpu backend computes in the types of the file.
    chat_format: "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3" or "template" instead of what the model says;
        "plain" for a base model, which then goes on with the conversation as one text.
    max_sequences, token_budget, pages: requests that run at once, tokens in a step, pages of 32 tokens in the cache.
    prefill_chunk: tokens of prompts in a step that other requests get their next token in.
    tokenizer: instead of the checkpoint's own.
    draft: a smaller model that guesses tokens, which this one checks several at a time: the same text, sooner. It may
        have another vocabulary. lookup: guess from the request's own text; with a draft too, that comes second.
        draft_tokens: guessed at once for a request, at most.
    lora: LoRA adapters to load, each "[NAME=]PATH[:SCALE]" (a PEFT directory or a GGUF file). One alone is used where a
        call names none; of several, such a call uses none.
    Raises CheckpointError, BackendError, RequestError; DownloadError where something has to be fetched.
    """
    checkpoint = open_checkpoint(spec)
    config = engine_config(
        checkpoint.config,
        context=context,
        pages=pages,
        max_sequences=max_sequences,
        token_budget=token_budget,
        kv_type=kv_type,
        prefill_chunk=prefill_chunk,
        speculation=arguments.speculation(draft, lookup, draft_tokens, backend),
    )
    ops = make_backend(backend, threads=threads, dtype=dtype)
    model = load_model(checkpoint.config, checkpoint.tensors, ops)
    second = None
    if draft is not None:
        guesser = open_checkpoint(draft)
        second = guesser, load_model(guesser.config, guesser.tensors, ops)
    llama = Llama(checkpoint, model, config, tokenizer=tokenizer, chat_format=chat_format, draft=second)
    names = [llama.load_adapter(spec) for spec in ([lora] if isinstance(lora, str | Path) else lora)]
    llama.adapter = names[0] if len(names) == 1 else None
    return llama


class Llama:
    """An open model. Close it, or use it in a `with` block, to give its memory back at once.

    `defaults` are the sampling parameters that hold where a call says nothing: the checkpoint's recommendation, else
    temperature 0.6 and top_p 0.9. `adapter` is the LoRA adapter that holds where a call says nothing, None for none;
    a call's adapter="" is the model as it is.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: LlamaModel,
        engine_config: EngineConfig,
        *,
        tokenizer: Tokenizer | None = None,
        chat_format: str | None = None,
        draft: tuple[Checkpoint, LlamaModel] | None = None,
    ) -> None:
        """`draft` goes with `engine_config.speculation`."""
        self.checkpoint = checkpoint
        self.engine_config = engine_config
        self.defaults = arguments.advised(checkpoint)
        self.adapter: str | None = None
        self._chat_variant = chat_format
        self._tokenizer = tokenizer
        self._no_tokenizer: TokenizerError | None = None
        if tokenizer is None:
            try:
                self._tokenizer = checkpoint.load_tokenizer()
            except TokenizerError as error:  # the model still continues ids, so this waits until text is asked for
                self._no_tokenizer = error
        cache = model.ops.cache(model.config, engine_config.pages, engine_config.block, engine_config.kv_type)
        proposer = None
        if draft is not None:
            proposer = make_draft(draft[1], _tokenizer(draft[0]), self._tokenizer, model.config, engine_config)
        self._running: tuple[Adapters, Runner] | None = (
            Adapters(model),
            Runner(Engine(model, cache, self._tokenizer, engine_config, draft=proposer)),
        )
        self._service: EngineService | None = None
        self._starting = threading.Lock()  # and changing: what runs, its service, its adapters

    @property
    def name(self) -> str:
        return self.checkpoint.name or self.checkpoint.path.name

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    @property
    def context(self) -> int:
        """Tokens of one conversation, prompt and answer together."""
        return self.engine_config.context

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the checkpoint has none, or a damaged one."""
        if self._tokenizer is None:
            assert self._no_tokenizer is not None
            raise self._no_tokenizer
        return self._tokenizer

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the LoRA adapters that are loaded."""
        return tuple(self._open()[0].numbers)

    def load_adapter(self, path: str | Path, name: str | None = None, *, scale: float | None = None) -> str:
        """Load a LoRA adapter, a PEFT directory or a GGUF file, and return its name: the path's last part unless given.
        `path` may say all: "[NAME=]PATH[:SCALE]"; `scale` multiplies the adapter's own. What runs goes on meanwhile.
        Raises CheckpointError for one that does not fit the model or is not supported, RequestError for a name that is
        taken."""
        spec = parse_spec(path)
        name, scale = name or spec.name, spec.scale if scale is None else scale
        lora = open_lora(spec.path, self.config, scale=scale)
        self._change(lambda adapters: adapters.add(name, lora))
        return name

    def unload_adapter(self, name: str) -> None:
        """Give an adapter's memory back. Raises RequestError for a name that is not loaded, and while a request uses
        it."""
        self._change(lambda adapters: adapters.remove(name))
        if self.adapter == name:
            self.adapter = None

    def _change(self, change: Callable[[Adapters], Adapters]) -> None:
        with self._starting:
            adapters, runner = self._open()
            changed = change(adapters)
            runner.use(changed.model, changed.numbers)
            self._running = changed, runner

    @cached_property
    def chat_format(self) -> ChatFormat:
        """Raises ChatFormatError where the model has no chat format, or one that is not understood."""
        return make_chat_format(self.tokenizer, self.checkpoint.chat_template, self._chat_variant)

    @overload
    def chat(
        self,
        messages: str | Sequence[MessageLike],
        *,
        system: str | None = ...,
        tools: Sequence[ToolLike] = ...,
        stream: Literal[False] = ...,
        params: SamplingParams | None = ...,
        adapter: str | None = ...,
        **sampling: Any,
    ) -> ChatResult: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[MessageLike],
        *,
        system: str | None = ...,
        tools: Sequence[ToolLike] = ...,
        stream: Literal[True],
        params: SamplingParams | None = ...,
        adapter: str | None = ...,
        **sampling: Any,
    ) -> ChatStream: ...

    def chat(
        self,
        messages: str | Sequence[MessageLike],
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] = (),
        stream: bool = False,
        params: SamplingParams | None = None,
        adapter: str | None = None,
        **sampling: Any,
    ) -> ChatResult | ChatStream:
        """Answer a question, or a conversation whose last message awaits an answer.

        messages: text of the user, or Messages, or dictionaries {"role", "content"}. system: put in front of them.
        tools: Tools, OpenAI's dictionaries, or names of built-in ones. params: sampling parameters to start from,
        instead of `defaults`; `sampling`: fields of SamplingParams by name, such as temperature=0 or max_tokens=100.
        adapter: the name of a loaded LoRA adapter, "" for none, otherwise the Llama's `adapter`.
        With `stream`: the pieces as they come, and the whole as `.result`. Raises ChatFormatError, RequestError.
        """
        conversation, offered = arguments.messages(messages, system), arguments.tools(tools)
        chosen = arguments.sampling_params(params or self.defaults, sampling)
        form = self.chat_format
        if not chosen.ignore_eos:
            chosen = replace(chosen, stop_ids=form.stop_ids | set(chosen.stop_ids))
        request = Request(tuple(form.encode(conversation, offered)), chosen, adapter=self._adapter(adapter))
        answer = ChatStream(self._runner.run([request]), request.id, form.parser(offered), tuple(chosen.stop))
        return answer if stream else answer.result

    @overload
    def complete(
        self,
        prompt: Prompt,
        *,
        echo: bool = ...,
        stream: Literal[False] = ...,
        params: SamplingParams | None = ...,
        adapter: str | None = ...,
        **sampling: Any,
    ) -> Completion: ...

    @overload
    def complete(
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        *,
        echo: bool = ...,
        n: int = ...,
        stream: Literal[False] = ...,
        params: SamplingParams | None = ...,
        adapter: str | None = ...,
        **sampling: Any,
    ) -> list[Completion]: ...

    @overload
    def complete(
        self,
        prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
        *,
        echo: bool = ...,
        n: int = ...,
        stream: Literal[True],
        params: SamplingParams | None = ...,
        adapter: str | None = ...,
        **sampling: Any,
    ) -> CompletionStream: ...

    def complete(
        self,
        prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
        *,
        echo: bool = False,
        n: int | None = None,
        stream: bool = False,
        params: SamplingParams | None = None,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Completion | list[Completion] | CompletionStream:
        """Continue a text, or token ids (taken as they are), or several of either, which run together.

        n: that many continuations of each prompt, next to each other in the list; with a seed, the i-th uses seed + i.
        echo: put the prompt's text in front. params, sampling, stream: as in `chat`; the pieces of a stream of several
        say by their `index` where they belong. adapter: as in `chat`. Raises RequestError, TokenizerError.
        """
        prompts, several = arguments.prompts(prompt)
        if n is not None and n < 1:
            raise RequestError(f"n is {n}, expected at least 1")
        chosen = arguments.sampling_params(params or self.defaults, sampling)
        ids = [self._encode(p) if isinstance(p, str) else list(map(int, p)) for p in prompts for _ in range(n or 1)]
        name = self._adapter(adapter)
        requests = [Request(tuple(tokens), chosen.nth(i % (n or 1)), adapter=name) for i, tokens in enumerate(ids)]
        shown: list[str] = []
        if echo:
            shown = [p if isinstance(p, str) else self.tokenizer.decode(p) for p in prompts for _ in range(n or 1)]
        answer = self.run(requests, shown)
        if stream:
            return answer
        return answer.results if several or n is not None else answer.result

    def run(self, requests: Sequence[Request], echo: Sequence[str] = ()) -> CompletionStream:
        """Run requests that each have their own parameters, together; `echo` are texts to put in front of theirs."""
        return CompletionStream(self._runner.run(requests), [request.id for request in requests], echo)

    def score(self, text: Prompt, *, top: int = 0, adapter: str | None = None) -> list[TokenLogprob]:
        """The log probability of each token of a text, the first one's None: nothing comes before it. `top` adds the
        most likely tokens at each place. Raises RequestError for a text longer than the context."""
        scored = self.complete(
            self._encode(text) if isinstance(text, str) else text,
            params=SamplingParams(temperature=0, max_tokens=0, prompt_logprobs=top),
            adapter=adapter,
        )
        return list(scored.prompt_logprobs)

    def perplexity(
        self,
        text: str,
        window: int = 512,
        *,
        progress: Callable[[int, int, Perplexity], None] | None = None,
        adapter: str | None = None,
    ) -> Perplexity:
        """How well the model predicts a text, by llama.cpp's method: windows of `window` tokens, second half scored."""
        ids = self._encode(text)
        return perplexity(
            self._model_with(adapter),
            ids,
            window,
            bos_id=self.tokenizer.bos_id if self._adds_bos else None,
            kv_type=self.engine_config.kv_type,
            progress=progress,
        )

    def serve(self) -> EngineService:
        """A thread that runs requests while there are any, for callers that cannot wait in their own; started at the
        first call, and the same afterwards. What else this Llama is asked for runs beside it, in shared batches. From
        now on the cache keeps all pages of requests that have ended, not only those of one context. Raises RequestError
        for a model that is closed."""
        with self._starting:
            runner = self._runner
            if self._service is None:
                runner.keep_pages()
                self._service = EngineService(runner)
            return self._service

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        adapter: str | None = None,
    ) -> NDArray[np.float32]:
        """A vector (N, D) for each text, or token ids: the states after the last layer and its norm, their mean or the
        last token's; of length 1 with `normalize`. Raises RequestError for a text without tokens, or past the context.
        """
        prompts, _ = arguments.prompts(texts)
        ids = [self._encode(p) if isinstance(p, str) else list(map(int, p)) for p in prompts]
        kv_type = self.engine_config.kv_type
        model = self._model_with(adapter)
        return embed(model, ids, self.context, pooling=pooling, normalize=normalize, kv_type=kv_type)

    def close(self) -> None:
        """Let go of weights and cache. Streams that are still read keep them until they end; what `serve` runs is
        cancelled."""
        with self._starting:
            self._running = None
            if self._service:
                self._service.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Llama {self.name}, context {self.context}{'' if self._running else ', closed'}>"

    def _adapter(self, name: str | None) -> str | None:
        """What a call's `adapter` means."""
        return self.adapter if name is None else name or None

    def _model_with(self, adapter: str | None) -> LlamaModel:
        """For what does not go through the engine."""
        adapters, name = self._open()[0], self._adapter(adapter)
        return adapters.model if name is None else everywhere(adapters.model, adapters.number(name))

    @property
    def _runner(self) -> Runner:
        return self._open()[1]

    def _open(self) -> tuple[Adapters, Runner]:
        if self._running is None:
            raise RequestError(f"{self.name} is closed; load it again")
        return self._running

    @property
    def _adds_bos(self) -> bool:
        vocabulary = self.tokenizer.vocabulary
        return vocabulary is None or vocabulary.add_bos

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, bos=self._adds_bos)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    try:
        return checkpoint.load_tokenizer()
    except TokenizerError:
        return None
