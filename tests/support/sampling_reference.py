"""Sampling by sorting, in float64: the plain code that the kernel is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def adjusted(
    logits: NDArray[np.float32],
    *,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    counts: Mapping[int, int] | None = None,
    bias: Mapping[int, float] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The logits after bias, mask and penalties."""
    x = logits.copy()
    for i, value in (bias or {}).items():
        x[i] += np.float32(value)
    if allowed is not None:
        x[~allowed] = -np.inf
    for i, count in (counts or {}).items():
        x[i] = x[i] / np.float32(repetition_penalty) if x[i] > 0 else x[i] * np.float32(repetition_penalty)
        if count:
            x[i] -= np.float32(count) * np.float32(frequency_penalty) + np.float32(presence_penalty)
    return x


def softmax(x: NDArray[np.floating]) -> NDArray[np.float64]:
    with np.errstate(under="ignore"):
        e = np.exp(x.astype(np.float64) - float(x.max()))
        return e / e.sum()


def kept(
    x: NDArray[np.float32],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    temperature_first: bool = False,
) -> tuple[NDArray[np.int64], float]:
    """(the ids that the filters leave, rising; how near the nearest decision was to falling the other way)."""
    z = x.astype(np.float64) / (temperature if temperature_first else 1.0)
    ids = np.lexsort((np.arange(len(x)), -z))
    ids = ids[np.isfinite(x[ids])]
    margin = np.inf
    if top_k:
        ids = ids[:top_k]
    if typical_p < 1:
        p = softmax(z[ids])
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(p)
            entropy = np.nansum(p * surprise)
        distance = np.abs(surprise - entropy)
        order = np.lexsort((ids, distance))
        before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
        keep = before <= typical_p
        margin = min(margin, np.abs(before - typical_p).min())
        last = keep.sum() - 1
        if last + 1 < len(ids):  # tokens on both sides of the expected surprise, equally far from it
            kept_one, dropped_one = order[last], order[last + 1]
            if x[ids[kept_one]] != x[ids[dropped_one]]:
                margin = min(margin, distance[dropped_one] - distance[kept_one])
        ids = ids[np.sort(order[keep])]
    if top_p < 1:
        before = np.concatenate([[0.0], np.cumsum(softmax(z[ids]))[:-1]])
        keep = before <= top_p if temperature_first else before < top_p
        keep[0] = True
        margin = min(margin, np.abs(before[1:] - top_p).min(initial=np.inf))
        ids = ids[keep]
    if min_p > 0:
        gap = z[ids] - z[ids[0]] - np.log(min_p)
        margin = min(margin, np.abs(gap[1:]).min(initial=np.inf))
        ids = ids[(gap >= 0) | (x[ids] == x[ids[0]])]
    return np.sort(ids), float(margin)


def draw(x: NDArray[np.float32], ids: NDArray[np.int64], temperature: float, uniform: float) -> tuple[int, float]:
    """(the token that the number picks, how near it lies to another one)."""
    running = np.cumsum(softmax(x[ids].astype(np.float64) / temperature))
    chosen = min(int(np.searchsorted(running, uniform, side="right")), len(ids) - 1)
    return int(ids[chosen]), float(np.abs(running[:-1] - uniform).min(initial=np.inf))
