"""Heads that copy from the first step: "what followed this token last time?".

Such induction heads (Olsson et al., "In-context Learning and Induction Heads", 2022) come up by themselves, but not in
the few million tokens that there are here, and names, things and arguments have to be copied all the time. So the first
two layers begin with them. The residual stream of width D is cut into a token's identity, one constant, and a copy of
the identity of the token before:

    layer 0   writers: attend one token back, wherever they are, and write down which token that was
    layer 1   readers: look for the place where the token at hand is written down as the one before, and say its token

A writer or reader is the first query head of a group, with the group's key and value head. All other heads and layers
begin as random as ever, and nothing here is kept fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pronk.config import ModelConfig

# Where things are in the residual stream, as shares of its width: identities begin at 0.
_IDENTITY_END = 5 / 8  # then the constant
_BEFORE = 3 / 4
_CONSTANT = 0.5  # of an identity's length
# Attention: gains that give the right place nearly all of it.
_POSITION_GAIN, _MATCH_GAIN = 0.94, 1.75
# What a head writes, against an embedding's length.
_BEFORE_GAIN, _SAY_GAIN = 1.5, 5.0
_FAST = (1.0, 1.0, 0.5, 0.3)  # energy of the fastest rotary pairs in a writer, which has to tell places apart
_SLOW = 0.005  # radians a token: a pair that turns less is the same at any distance, which a reader needs


class Layer(Protocol):
    """`qkv` ((H + 2K) * E, D) holds the rows of q, k and v; `output` is (D, H * E)."""

    qkv: Tensor
    output: Tensor


def wire(config: ModelConfig, embeddings: Tensor, layers: Sequence[Layer], deviation: float) -> None:
    """Changes `embeddings` (V, D), of that standard deviation, and the first two layers. Raises ValueError where there
    are fewer."""
    if len(layers) < 2:
        raise ValueError(f"a network of {len(layers)} layers cannot be wired to copy, expected at least 2")
    identity, before = round(config.dim * _IDENTITY_END), round(config.dim * _BEFORE)
    frequencies = torch.tensor(config.inverse_frequencies())
    count = (config.dim - before) // config.head_dim
    seen = torch.cat([_projection(config.head_dim, identity) for _ in range(count)])  # (count * E, identity)
    with torch.no_grad():
        embeddings[:, identity:] = 0
        embeddings[:, identity] = _CONSTANT * deviation * identity**0.5
        _wire_writers(config, layers[0], seen, before, frequencies, _BEFORE_GAIN * deviation)
        _wire_readers(config, layers[1], seen, before, frequencies, _SAY_GAIN * deviation)


def _wire_writers(
    config: ModelConfig, layer: Layer, seen: Tensor, before: int, frequencies: Tensor, gain: float
) -> None:
    """One for each E rows of `seen`. Keys are one vector, queries the same turned back by one place."""
    head, identity = config.head_dim, seen.shape[1]
    key = torch.zeros(head)
    key[: len(_FAST)] = torch.tensor(_FAST).sqrt()
    real = key[: head // 2]  # the imaginary half is zero
    query = torch.cat((real * frequencies.cos(), -real * frequencies.sin()))
    for writer, projection in enumerate(seen.split(head)):
        q, k, v = _rows(config, writer)
        for rows, vector in ((q, query), (k, key)):
            layer.qkv[rows] = 0
            layer.qkv[rows, identity] = _POSITION_GAIN * vector  # from the constant
        layer.qkv[v] = 0
        layer.qkv[v, :identity] = projection
        layer.output[before + writer * head : before + (writer + 1) * head, q] = gain * torch.eye(head)


def _wire_readers(
    config: ModelConfig, layer: Layer, seen: Tensor, before: int, frequencies: Tensor, gain: float
) -> None:
    """One for each key head, which compares in a random projection of its own and says one part of the identity."""
    slow = torch.cat((frequencies < _SLOW,) * 2).nonzero()[:, 0]
    identity = seen.shape[1]
    for reader in range(config.n_kv_heads):
        q, k, v = _rows(config, reader)
        match, said = _projection(len(slow), len(seen)), _projection(config.head_dim, identity)
        for rows in (q, k, v):
            layer.qkv[rows] = 0
        layer.qkv[q.start + slow, :identity] = _MATCH_GAIN * match @ seen
        layer.qkv[k.start + slow, before : before + len(seen)] = _MATCH_GAIN * match
        layer.qkv[v, :identity] = said
        layer.output[:identity, q] = gain * said.mT


def _rows(config: ModelConfig, index: int) -> tuple[slice, slice, slice]:
    """Rows of `qkv`: the first query head that uses key head `index`, that key head, and its values."""
    group = config.n_heads // config.n_kv_heads
    starts = (index * group, config.n_heads + index, config.n_heads + config.n_kv_heads + index)
    q, k, v = (slice(start * config.head_dim, (start + 1) * config.head_dim) for start in starts)
    return q, k, v


def _projection(rows: int, columns: int) -> Tensor:
    """Random orthonormal rows."""
    return torch.linalg.qr(torch.randn(columns, rows)).Q.mT.contiguous()
