"""Texts as windows of token ids, the way perplexity is measured, and the text that comes with the package."""

from __future__ import annotations

from importlib import resources

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.errors import RequestError
from pronk.text.tokenizer import Tokenizer

BUILT_IN = "pronk's own text"


def built_in() -> str:
    """A few pages of our own in English and Chinese: prose, talk, code, figures."""
    return resources.files("pronk.quantize").joinpath("calibration.txt").read_text(encoding="utf-8")


def windows(checkpoint: Checkpoint, text: str, size: int, most: int | None = None) -> list[list[int]]:
    """The text's whole windows of `size` tokens, `most` at most; bos takes the place of each one's first token, where
    the tokenizer adds one. Raises RequestError for a text or a context too short for one, TokenizerError for a model
    without a tokenizer."""
    context = checkpoint.config.context_length
    if not 4 <= size <= context:
        raise RequestError(f"a window of {size} tokens, expected 4 to {context}, the model's context")
    tokenizer = checkpoint.load_tokenizer()
    bos = _adds_bos(tokenizer)
    ids = tokenizer.encode(text, bos=bos)
    count = len(ids) // size
    if not count:
        raise RequestError(f"the text has {len(ids)} tokens, expected at least {size}: one window (-c)")
    result = [ids[i * size : (i + 1) * size] for i in range(min(count, most or count))]
    if bos and tokenizer.bos_id is not None:
        for window in result:
            window[0] = tokenizer.bos_id
    return result


def _adds_bos(tokenizer: Tokenizer) -> bool:
    return tokenizer.vocabulary is None or tokenizer.vocabulary.add_bos
