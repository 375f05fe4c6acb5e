"""The engine's outputs as TGI's tokens, texts and details.

As in TGI, a stop string is the last of `generated_text`, and the end token is a token of the answer, a special one. The
texts of the tokens that are not special, joined, are `generated_text`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Output, Request, Timings, Usage
from pronk.server.tgi.schemas import Details, FinishReason, PrefillToken, Sequence, StreamDetails, Token
from pronk.server.token_text import TokenTexts
from pronk.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class NewToken:
    token: Token
    top: tuple[Token, ...]


@dataclass
class Answer:
    """One request's answer so far. `seed` is what it was sampled with, None where it is greedy."""

    tokenizer: Tokenizer
    request: Request
    seed: int | None
    tokens: list[NewToken] = field(default_factory=list)
    prefill: tuple[TokenLogprob, ...] = ()
    text: str = ""
    last: Output | None = None

    def __post_init__(self) -> None:
        self._texts = TokenTexts(self.tokenizer, self.request.prompt)
        self._engine_text = ""

    def feed(self, output: Output) -> list[NewToken]:
        """The tokens that an output brings. None, at the end, of an answer that ended between two tokens."""
        self._engine_text += output.text
        self.prefill = self.prefill or output.prompt_logprobs
        logprobs: tuple[TokenLogprob | None, ...] = output.logprobs or (None,) * len(output.ids)
        new = [self._token(token, logprob) for token, logprob in zip(output.ids, logprobs, strict=True)]
        if output.finish_reason:
            self.last = output
            if isinstance(output.stopped_by, int):
                new.append(self._token(output.stopped_by, output.stop_logprob))
            elif new and not new[-1].token.special:
                self._complete(new[-1].token, output.stopped_by or "")
        self.tokens += new
        return new

    @property
    def finish_reason(self) -> FinishReason:
        """ "length" also for an answer that filled the context, or whose time was up."""
        assert self.last is not None, "the answer has not ended"
        if self.last.finish_reason != "stop":
            return "length"
        return "stop_sequence" if isinstance(self.last.stopped_by, str) else "eos_token"

    @property
    def usage(self) -> Usage:
        assert self.last is not None
        assert self.last.usage is not None
        return self.last.usage

    @property
    def timings(self) -> Timings:
        assert self.last is not None
        assert self.last.timings is not None
        return self.last.timings

    @property
    def mean_logprob(self) -> float:
        """What `best_of` chooses by."""
        known = [new.token.logprob for new in self.tokens if new.token.logprob is not None]
        return sum(known) / len(known) if known else 0.0

    def details(self, others: list[Sequence] | None) -> Details:
        return Details(
            finish_reason=self.finish_reason,
            generated_tokens=self.usage.completion_tokens,
            seed=self.seed,
            prefill=self._prefill_tokens(),
            tokens=[new.token for new in self.tokens],
            best_of_sequences=others,
            top_tokens=self._top_tokens(),
        )

    def sequence(self, in_front: str) -> Sequence:
        return Sequence(
            generated_text=in_front + self.text,
            finish_reason=self.finish_reason,
            generated_tokens=self.usage.completion_tokens,
            seed=self.seed,
            prefill=self._prefill_tokens(),
            tokens=[new.token for new in self.tokens],
            top_tokens=self._top_tokens(),
        )

    def stream_details(self) -> StreamDetails:
        return StreamDetails(
            finish_reason=self.finish_reason,
            generated_tokens=self.usage.completion_tokens,
            seed=self.seed,
            input_length=self.usage.prompt_tokens,
        )

    def _token(self, token: int, logprob: TokenLogprob | None) -> NewToken:
        special = self._texts.is_special(token)
        text = self._alone(token) if special else self._texts.feed(token)
        if not special:
            self.text += text
        top = tuple(self._top_token(other, value) for other, value in logprob.top) if logprob else ()
        value = logprob.logprob if logprob else None
        return NewToken(Token(id=token, text=text, logprob=value, special=special), top)

    def _complete(self, token: Token, stop: str) -> None:
        """Of the last token, what belongs to the answer: up to a stop string's end, or with half a character's."""
        before = self.text[: len(self.text) - len(token.text)]
        self.text = self._engine_text + stop
        token.text = self.text[len(before) :]

    def _top_token(self, token: int, logprob: float) -> Token:
        return Token(id=token, text=self._alone(token), logprob=logprob, special=self._texts.is_special(token))

    def _alone(self, token: int) -> str:
        """A token's text wherever it stands."""
        if self._texts.is_special(token):
            return self.tokenizer.token_text(token)
        return self.tokenizer.token_bytes(token).decode(errors="replace")

    def _prefill_tokens(self) -> list[PrefillToken]:
        return [PrefillToken(id=p.id, text=self._alone(p.id), logprob=p.logprob) for p in self.prefill]

    def _top_tokens(self) -> list[list[Token]] | None:
        return [list(new.top) for new in self.tokens] if any(new.top for new in self.tokens) else None
