"""A request's sampler, put together from what its parameters ask for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pronk.engine.grammar import GrammarCompiler, GrammarMatcher
from pronk.engine.samplers_text import TokenTexts, tail_of
from pronk.engine.sampling import Sampler, SamplingParams
from pronk.errors import RequestError
from pronk.text.tokenizer import Tokenizer


class Samplers:
    """Makes samplers for one tokenizer (None: for ids without text). `check` may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer | None, grammars: GrammarCompiler | None = None) -> None:
        self._texts = TokenTexts(tokenizer) if tokenizer else None
        self._grammars = grammars or (GrammarCompiler(tokenizer, tokenizer.stop_ids) if tokenizer else None)

    def check(self, params: SamplingParams) -> None:
        """Raises RequestError for parameters that cannot be obeyed. Takes time for a grammar that is new."""
        for what, wanted in (("bad_words", params.bad_words), ("a grammar", params.grammar)):
            if wanted and not self._texts:
                raise RequestError(f"{what} needs a tokenizer, and this model came with none")
        if params.grammar:
            assert self._grammars
            self._grammars.check(params.grammar)

    def make(self, params: SamplingParams, prompt: Sequence[int], stop_ids: Collection[int]) -> Sampler:
        """`stop_ids`: those that end this request."""
        matcher = None
        if params.grammar and self._grammars:
            matcher = self._grammars.matcher(params.grammar, stop_ids)
        breakers = None
        if params.dry_multiplier and params.dry_breakers and self._texts:
            breakers = self._texts.breakers(tuple(params.dry_breakers))
        return Sampler(params, prompt, Limits(params, stop_ids, matcher, self._texts), breakers)


class Limits:
    """The tokens that may follow an answer: by the grammar, allowed_ids, bad_words and min_tokens."""

    def __init__(
        self,
        params: SamplingParams,
        stop_ids: Collection[int],
        matcher: GrammarMatcher | None = None,
        texts: TokenTexts | None = None,
    ) -> None:
        self._matcher = matcher
        self._min_tokens = params.min_tokens
        self._stops = np.array(sorted(stop_ids), np.int32)
        self._listed = None if params.allowed_ids is None else np.array(sorted(set(params.allowed_ids)), np.int64)
        self._mask: NDArray[np.uint32] | None = None
        self._bad = [texts.bad_word(text) for text in params.bad_words] if texts else []
        self._pieces = texts.pieces if texts and self._bad else []

    def complete(self, answer: Sequence[int]) -> bool:
        """By its grammar nothing but a stop can follow."""
        return self._matcher is not None and self._matcher.complete(answer)

    def allowed(self, answer: Sequence[int], vocabulary: int) -> NDArray[np.uint32] | None:
        """A bit for each token, as the sampling kernel reads them; None where all may come."""
        words = (vocabulary + 31) // 32
        mask = self._matcher.allowed(answer)[:words] if self._matcher else None
        if self._listed is None:
            return mask
        if self._mask is None:
            bits = np.zeros(words * 32, np.uint8)
            bits[self._listed[self._listed < vocabulary]] = 1
            self._mask = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        return self._mask if mask is None else mask & self._mask

    def forbidden(self, answer: Sequence[int], vocabulary: int) -> NDArray[np.int32] | None:
        """Ids that may not come; None where there are none such."""
        found = [self._stops] if len(answer) < self._min_tokens else []
        if self._bad:
            tail = tail_of(self._pieces, answer, max(map(len, self._bad)) - 1)
            found += [ids for word in self._bad for ids in word.forbidden(tail)]
        if not found:
            return None
        ids = np.concatenate(found)
        return ids[ids < vocabulary]
