"""Models of a real shape with random weights: for benchmarks, and to see what fits into memory without a download.

A tensor's bytes depend on the seed and its name alone. They are made when asked for, and kept for as long as somebody
holds them. A quantized tensor is random bits as they are, with only the scales of its blocks chosen, so that a model of
gigabytes is there in seconds and its activations stay near unit size through all layers.
"""

from __future__ import annotations

import functools
import math
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import mixes
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import TensorType
from pronk.text import tiktoken_file
from pronk.text.tokenizer import Tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary

Bytes = NDArray[np.uint8]

_CHUNK = 1 << 17  # 64-bit words drawn at a time: one megabyte, so that they are copied while in the cache


def _llama2(dim: int, layers: int, heads: int, kv_heads: int, ffn: int, context: int = 4096) -> ModelConfig:
    return ModelConfig(dim, layers, heads, kv_heads, dim // heads, ffn, 32000, context)


def _llama3(dim: int, layers: int, heads: int, kv_heads: int, ffn: int) -> ModelConfig:
    return ModelConfig(dim, layers, heads, kv_heads, dim // heads, ffn, 128256, 8192, rope_theta=500000.0)


def _llama3_1(dim: int, layers: int, heads: int, kv_heads: int, ffn: int, factor: float = 8.0) -> ModelConfig:
    scaling = RopeScaling("llama3", factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    return replace(_llama3(dim, layers, heads, kv_heads, ffn), context_length=131072, rope_scaling=scaling)


# Numbers: Meta's params.json and Hugging Face's config.json of each model.
SHAPES = {
    "llama-2-7b": _llama2(4096, 32, 32, 32, 11008),
    "llama-2-13b": _llama2(5120, 40, 40, 40, 13824),
    "llama-2-70b": _llama2(8192, 80, 64, 8, 28672),
    "llama-3-8b": _llama3(4096, 32, 32, 8, 14336),
    "llama-3-70b": _llama3(8192, 80, 64, 8, 28672),
    "llama-3.1-8b": _llama3_1(4096, 32, 32, 8, 14336),
    "llama-3.1-70b": _llama3_1(8192, 80, 64, 8, 28672),
    "llama-3.1-405b": _llama3_1(16384, 126, 128, 8, 53248),
    "llama-3.2-1b": replace(_llama3_1(2048, 16, 32, 8, 8192, factor=32.0), tied_output=True),
    "llama-3.2-3b": replace(_llama3_1(3072, 28, 24, 8, 8192, factor=32.0), tied_output=True),
    "tinyllama-1.1b": _llama2(2048, 22, 32, 4, 5632, context=2048),
    "tiny": ModelConfig(256, 4, 8, 4, 32, 768, 512, 512),
    "tiny-tied": ModelConfig(256, 4, 8, 4, 32, 768, 512, 512, rope_theta=500000.0, tied_output=True),
}  # fmt: skip


def random_checkpoint(shape: str, type: str = "BF16", seed: int = 0) -> Checkpoint:
    """A model of a known shape whose weights are random. `type` is a tensor type or a mix such as Q4_K_M.

    Raises CheckpointError for an unknown shape or type, or a type that the shape's rows do not divide into.
    """
    config = SHAPES.get(shape.lower())
    if config is None:
        raise CheckpointError(f"unknown random shape {shape!r}, expected one of {', '.join(SHAPES)}")
    choice = mixes.resolve(type)
    # As in Meta's models: what has scaled rope has 3.1's special tokens.
    variant: tiktoken_file.Specials = "llama3.1" if config.rope_scaling else "llama3"
    tensors = {}
    for name, dims in config.tensor_shapes().items():
        chosen = mixes.tensor_type(choice, name, dims, config)
        tensors[name] = _random_tensor(name, dims, chosen, _deviation(name, dims, config), seed)
    return Checkpoint(
        path=Path(f"random:{shape}:{type}"),
        format="random",
        config=config,
        tensors=tensors,
        load_tokenizer=lambda: _tokenizer(config.vocab_size, variant),
        name=f"random-{shape.lower()}",
    )


def _deviation(name: str, shape: tuple[int, ...], config: ModelConfig) -> float:
    """The standard deviation of a matrix that keeps activations near unit size. 0 for a norm's gains: they are ones."""
    if len(shape) == 1:
        return 0.0
    if name == "tok_embeddings.weight" and not config.tied_output:
        return 1.0
    deviation = 1 / math.sqrt(shape[-1])
    if name.endswith(("wo.weight", "w2.weight")):  # what is added to the residual stream, twice a layer
        deviation /= math.sqrt(2 * config.n_layers)
    return deviation


def _random_tensor(name: str, shape: tuple[int, ...], type: TensorType, deviation: float, seed: int) -> LazyTensor:
    if deviation and type not in _FILLS:
        known = ", ".join(t.name for t in _FILLS)
        raise CheckpointError(
            f"random weights of type {type} cannot be made, expected one of {known}, or a mix of them"
        )
    size = type.nbytes(shape)  # refuses rows that do not divide into blocks, before anything is made

    def make() -> NDArray[Any]:
        if not deviation:
            return np.ones(shape, np.float32)
        words = _random_words(-(-size // 8), seed, name)
        _FILLS[type](words.view(np.uint8)[:size].reshape(-1, type.bytes), deviation)
        return words

    return LazyTensor(name, shape, type, _WhileHeld(make, size))


class _WhileHeld:
    """Calls `make` once for as long as its result is held: a model that runs does that, a writer only briefly."""

    def __init__(self, make: Callable[[], NDArray[Any]], size: int) -> None:
        self._make = make  # an array that owns its memory, at least `size` bytes: every view of it keeps it alive
        self._size = size
        self._held: weakref.ref[NDArray[Any]] | None = None
        self._lock = Lock()

    def __call__(self) -> Bytes:
        with self._lock:
            owner = self._held() if self._held else None
            if owner is None:
                owner = self._make()
                owner.flags.writeable = False
                self._held = weakref.ref(owner)
            return owner.reshape(-1).view(np.uint8)[: self._size]


def _random_words(count: int, seed: int, name: str) -> NDArray[np.uint64]:
    generator = np.random.SFC64([seed, zlib.crc32(name.encode())])
    words = np.empty(count, np.uint64)
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        part[:] = generator.random_raw(len(part))
    return words


# --- making random bits into plausible weights, in place, one function for a family of types ---
# Each takes blocks (n, bytes of a block) and the standard deviation wanted.


@dataclass(frozen=True)
class _Float:
    """Sign, mantissa and two bits of the exponent stay random: four octaves, root mean square 7.04 times the lowest."""

    word: type[np.unsignedinteger]
    mantissa: int
    bias: int

    def __call__(self, blocks: Bytes, deviation: float) -> None:
        words = blocks.reshape(-1).view(self.word)
        bits = 8 * words.itemsize
        exponent = round(math.log2(deviation / 7.04)) + self.bias
        words &= self.word(1 << bits - 1 | (1 << self.mantissa + 2) - 1)
        words += self.word(exponent << self.mantissa)


@dataclass(frozen=True)
class _Scaled:
    """Blocks with fp16 scales at `scale`; the values without them have the root mean square `rms`.

    `minimum` is where an fp16 minimum lies, which is `ratio` times the scale: the middle of the values' range. Without
    one, half of the scales are negative: signed values have one more step below zero than above, and a mean that is not
    zero would add up over the layers.
    """

    rms: float
    scale: int
    minimum: int | None = None
    ratio: float = 0.0
    prepare: Callable[[Bytes], None] | None = None

    def __call__(self, blocks: Bytes, deviation: float) -> None:
        if self.prepare:
            self.prepare(blocks)
        scales = _scales(blocks[:, self.scale], deviation / self.rms)
        if self.minimum is None:
            scales *= 1 - 2 * (blocks[:, self.scale + 1] & 1).astype(np.float32)
        else:
            self._put(blocks, self.minimum, scales * np.float32(self.ratio))
        self._put(blocks, self.scale, scales)

    @staticmethod
    def _put(blocks: Bytes, at: int, values: NDArray[np.float32]) -> None:
        blocks[:, at : at + 2] = values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _scales(random: Bytes, size: float) -> NDArray[np.float32]:
    """0.75 to 1.25 of `size`."""
    return (random.astype(np.float32) + 384) * np.float32(size / 512)


@dataclass(frozen=True)
class _Iq1M:
    """The scale in four pieces: four bits on top of each word of the last eight bytes, the lowest first."""

    rms: float

    def __call__(self, blocks: Bytes, deviation: float) -> None:
        scales = _scales(blocks[:, 49], deviation / self.rms) * (1 - 2 * (blocks[:, 51] >> 7).astype(np.float32))
        bits = scales.astype(np.float16).view(np.uint16)
        for i in range(4):
            top = (bits >> np.uint16(4 * i) & np.uint16(15)).astype(np.uint8) << 4
            blocks[:, 49 + 2 * i] = (blocks[:, 49 + 2 * i] & 15) | top


@dataclass(frozen=True)
class _PowerOfTwo:
    """MXFP4's scale, 2^(e - 128): of the two powers about the one wanted, as many of each as give its mean square."""

    rms: float

    def __call__(self, blocks: Bytes, deviation: float) -> None:
        mantissa, exponent = math.frexp(deviation / self.rms)  # mantissa 0.5 to 1
        larger = (4 * mantissa**2 - 1) / 3
        blocks[:, 0] = 127 + exponent + (blocks[:, 0] < 256 * larger)


def _equal_minimums(blocks: Bytes) -> None:
    """Q4_K and Q5_K: the 6-bit minimum of each group equal to its scale (ggml-quants.c, `get_scale_min_k4`)."""
    packed = blocks[:, 4:16]
    packed[:, 4:8] = packed[:, 0:4]
    packed[:, 8:12] = (packed[:, 8:12] & 15) * 17


def _moderate_scales(blocks: Bytes) -> None:
    """Q6_K: the 8-bit scales of the 16 groups between 32 and 63."""
    scales = blocks[:, 192:208]
    np.bitwise_or(scales & 31, 32, out=scales)


def _equal_nibbles(blocks: Bytes) -> None:
    """Q2_K: the 4-bit minimum of each group equal to its scale."""
    scales = blocks[:, 0:16]
    np.multiply(scales & 15, 17, out=scales)


# Root mean squares: a uniform q of n levels about its middle has sqrt((n^2 - 1) / 12); scales of 4 bits have 8.8, of 6
# bits 36.4 (0 to 63), 48.4 (32 to 63) or 18.5 (-32 to 31); the odd numbers below 32 have 18.5 and below 16 9.2; the
# tables 67.4 (IQ4), 7.6 and 30.8 (IQ3), 23.1 to 24.4 (IQ2), 0.78 (IQ1 with its eighth), 5.9 (MXFP4).
_FILLS: dict[TensorType, Callable[[Bytes, float], None]] = {
    types.F32: _Float(np.uint32, mantissa=23, bias=127),
    types.F16: _Float(np.uint16, mantissa=10, bias=15),
    types.BF16: _Float(np.uint16, mantissa=7, bias=127),
    types.Q4_0: _Scaled(4.6, scale=0),
    types.Q4_1: _Scaled(4.6, scale=0, minimum=2, ratio=-7.5),
    types.Q5_0: _Scaled(9.2, scale=0),
    types.Q5_1: _Scaled(9.2, scale=0, minimum=2, ratio=-15.5),
    types.Q8_0: _Scaled(73.9, scale=0),
    types.Q2_K: _Scaled(1.12 * 8.8, scale=80, minimum=82, ratio=1.5, prepare=_equal_nibbles),
    types.Q3_K: _Scaled(2.35 * 18.5, scale=108),
    types.Q4_K: _Scaled(4.6 * 36.4, scale=0, minimum=2, ratio=7.5, prepare=_equal_minimums),
    types.Q5_K: _Scaled(9.2 * 36.4, scale=0, minimum=2, ratio=15.5, prepare=_equal_minimums),
    types.Q6_K: _Scaled(18.5 * 48.4, scale=208, prepare=_moderate_scales),
    types.IQ4_NL: _Scaled(67.4, scale=0),
    types.IQ4_XS: _Scaled(67.4 * 18.5, scale=0),
    types.IQ3_S: _Scaled(7.6 * 18.5, scale=0),
    types.IQ3_XXS: _Scaled(30.8 * 18.5 / 4, scale=0),
    types.IQ2_S: _Scaled(24.4 * 18.5 / 8, scale=0),
    types.IQ2_XS: _Scaled(24.2 * 18.5 / 8, scale=0),
    types.IQ2_XXS: _Scaled(23.1 * 18.5 / 8, scale=0),
    types.IQ1_M: _Iq1M(0.78 * 9.2),
    types.IQ1_S: _Scaled(0.78 * 9.2, scale=0),
    types.TQ1_0: _Scaled(0.82, scale=52),
    types.TQ2_0: _Scaled(1.22, scale=64),
    types.MXFP4: _PowerOfTwo(5.85),
}


# --- a vocabulary of any size ---


@functools.cache
def _tokenizer(size: int, variant: tiktoken_file.Specials) -> Tokenizer:
    from pronk.text.tokenizers import build_tokenizer

    return build_tokenizer(random_vocabulary(size, variant))


def random_vocabulary(size: int, variant: tiktoken_file.Specials) -> Vocabulary:
    """The 256 bytes, words of no language up to `size`, and Llama 3's 256 special tokens, so that chat works."""
    specials = tiktoken_file.special_tokens(variant)
    first = size - len(specials)
    stops = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    return Vocabulary(
        model="bpe",
        tokens=tuple(_words(first) + [name.encode() for name in specials]),
        kinds=(TokenKind.NORMAL,) * first + (TokenKind.CONTROL,) * len(specials),
        pre="llama-bpe",
        bos_id=first,
        eos_id=first + 1,
        stop_ids=frozenset(first + i for i, name in enumerate(specials) if name in stops),
    )


def _words(count: int) -> list[bytes]:
    """Tokens in rank order, each one token before it and a syllable after it, so that BPE finds every one of them.

    Only the syllables themselves and words that begin with a space are tokens: no other merge can get in the way.
    """
    syllables = [a + b for a in "bcdfghjklmnpqrstvwxz" for b in "aeiou"]
    words = [*syllables, *(" " + s for s in syllables)]
    at = len(syllables)  # the first word that has not been lengthened
    while 256 + len(words) < count:
        words += [words[at] + s for s in syllables]
        at += 1
    return ([bytes([b]) for b in range(256)] + [word.encode() for word in words])[:count]
