"""llama.cpp's samplers in any order, by sorting, in float64: the plain code that the kernel is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from support.sampling_reference import softmax


@dataclass
class Chain:
    """Tokens left and their logits; `margin` is how near the nearest decision was to falling the other way."""

    ids: NDArray[np.int64]
    z: NDArray[np.float64]
    margin: float = np.inf

    temperature: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_uniform: float = 0.0
    mirostat_mu: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    counts: Mapping[int, int] = field(default_factory=dict)
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_history: Sequence[int] = ()
    breakers: Sequence[tuple[int, tuple[int, ...]]] = ()

    def run(self, steps: Sequence[str]) -> Chain:
        for step in steps:
            getattr(self, f"_{step}")()
        return self

    def _keep(self, keep: NDArray[np.bool_] | list[int] | NDArray[np.int64]) -> None:
        places = np.flatnonzero(keep) if np.asarray(keep).dtype == bool else np.sort(keep)
        self.ids, self.z = self.ids[places], self.z[places]

    def _ranked(self) -> NDArray[np.int64]:
        """Places, the best first, of equal ones the lower id."""
        return np.lexsort((self.ids, -self.z))

    def _near(self, gaps: NDArray[np.float64]) -> None:
        self.margin = min(self.margin, float(np.abs(gaps).min(initial=np.inf)))

    def _penalties(self) -> None:
        for i, token in enumerate(self.ids):
            if token in self.counts:
                z = self.z[i]
                z = z / self.repetition_penalty if z > 0 else z * self.repetition_penalty
                times = self.counts[token]
                self.z[i] = z - (times * self.frequency_penalty + self.presence_penalty if times else 0)

    def _dry(self) -> None:
        if self.dry_multiplier and self.dry_base >= 1:
            for token, length in repeats(self.dry_history, self.breakers, self.dry_allowed_length).items():
                longest = 88.7228391 / math.log(self.dry_base) if self.dry_base > 1.000001 else math.inf
                power = min(length - self.dry_allowed_length, longest)
                self.z[self.ids == token] -= self.dry_multiplier * self.dry_base**power

    def _top_n_sigma(self) -> None:
        if self.top_n_sigma > 0:
            gaps = self.z - (self.z.max() - self.top_n_sigma * self.z.std())
            self._near(gaps)
            self._keep(gaps >= 0)

    def _top_k(self) -> None:
        if self.top_k:
            self._keep(self._ranked()[: self.top_k])

    def _typ_p(self) -> None:
        if self.typical_p < 1:
            p = softmax(self.z)
            surprise = -np.log(p)
            distance = np.abs(surprise - float((p * surprise).sum()))
            order = np.lexsort((self.ids, distance))
            before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
            kept = order[before <= self.typical_p]
            self._near(before - self.typical_p)
            if len(kept) < len(order):
                self._near(distance[order[len(kept)]] - distance[kept[-1:]])
            self._keep(kept)

    def _top_p(self) -> None:
        if self.top_p < 1:
            order = self._ranked()
            before = np.concatenate([[0.0], np.cumsum(softmax(self.z[order]))[:-1]])
            self._near(before[1:] - self.top_p)
            self._keep(order[(before < self.top_p) | (np.arange(len(order)) == 0)])

    def _min_p(self) -> None:
        if self.min_p > 0:
            gaps = self.z - self.z.max() - np.log(self.min_p)
            self._near(gaps[self.z < self.z.max()])
            self._keep((gaps >= 0) | (self.z == self.z.max()))

    def _xtc(self) -> None:
        if self.xtc_threshold <= 0.5 and self.xtc_uniform < self.xtc_probability:
            p = softmax(self.z)
            self._near(p - self.xtc_threshold)
            order = self._ranked()
            top = [place for place in order if p[place] >= self.xtc_threshold]
            self._keep(np.setdiff1d(order, top[:-1]))

    def _temperature(self) -> None:
        temperature = self.temperature
        if self.dynatemp_range > 0:
            if len(self.z) < 2:
                return
            p = softmax(self.z)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = -np.nansum(p * np.log(p)) / np.log(len(p))
            low = max(0.0, temperature - self.dynatemp_range)
            high = temperature + self.dynatemp_range
            temperature = low + (high - low) * np.clip(share, 0, 1) ** self.dynatemp_exponent
            self.margin = min(self.margin, float(temperature))  # near zero nothing can be compared
        self.z = self.z / max(temperature, 1e-9)

    def _mirostat(self) -> None:
        bits = -np.log2(softmax(self.z))
        self._near(bits - self.mirostat_mu)
        self._keep(bits <= self.mirostat_mu if (bits <= self.mirostat_mu).any() else self._ranked()[:1])

    def draw(self, uniform: float) -> tuple[int, float, float]:
        """(the token that the number picks, how near it lies to another one, its surprise in bits)"""
        p = softmax(self.z)
        running = np.cumsum(p)
        place = min(int(np.searchsorted(running, uniform, side="right")), len(p) - 1)
        near = float(np.abs(running[:-1] - uniform).min(initial=np.inf))
        return int(self.ids[place]), near, float(-np.log2(p[place]))


def start(logits: NDArray[np.float32], **options: object) -> Chain:
    ids = np.flatnonzero(logits > -np.inf)
    return Chain(ids, logits[ids].astype(np.float64), **options)  # type: ignore[arg-type]


def repeats(
    history: Sequence[int], breakers: Sequence[tuple[int, tuple[int, ...]]], allowed_length: int
) -> dict[int, int]:
    """Each token that would go on with a sequence which the history's end repeats, and how long the longest is."""
    history = list(history)
    if len(history) <= allowed_length:
        return {}
    most = len(history)
    for place in reversed(range(len(history))):  # the last breaker
        tails = [tail for head, tail in breakers if head == history[place]]
        fits = [tail for tail in tails if history[place + 1 : place + 1 + len(tail)] == list(tail)]
        if fits:
            most = len(history) - (place + 1 + max(map(len, fits)))
            break
    if most < allowed_length:
        return {}
    found: dict[int, int] = {}
    for end in range(1, len(history)):  # a sequence that ended before `end`, where its next token stands
        length = 0
        while length < end and history[end - 1 - length] == history[-1 - length]:
            length += 1
        length = min(length, most)
        if length >= allowed_length:
            found[history[end]] = max(found.get(history[end], 0), length)
    alone = {head for head, tail in breakers if not tail}
    return {token: length for token, length in found.items() if token not in alone}
