"""Draws the loss curves of a run as an SVG, from its log."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT = 760, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 28, 44
_INK, _TRAINING, _HELD_BACK = "#444444", "#9db4d0", "#c0392b"


@dataclass(frozen=True)
class _Axes:
    """Data to pixels. Losses are drawn on a plain scale from 0, cut at `top`."""

    tokens: float
    top: float

    def x(self, tokens: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * tokens / self.tokens

    def y(self, loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(loss, self.top) / self.top)

    def points(self, pairs: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(tokens):.1f},{self.y(loss):.1f}" for tokens, loss in pairs)


def draw(log: Path, picture: Path) -> None:
    """Loss in nats a token against tokens seen: the training loss, and that of the assistant's words held back."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    picture.write_text(_svg(entries), encoding="utf-8")


def _svg(entries: Sequence[dict[str, Any]]) -> str:
    axes = _Axes(tokens=max(1.0, float(entries[-1]["tokens"])), top=4.0)
    training = [(float(entry["tokens"]), float(entry["loss"])) for entry in entries]
    measured = [
        (float(entry["tokens"]), float(entry["held_back_loss"])) for entry in entries if "held_back_loss" in entry
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_grid(axes),
        *_stage_lines(axes, entries),
        f'<polyline fill="none" stroke="{_TRAINING}" points="{axes.points(training)}"/>',
        f'<polyline fill="none" stroke="{_HELD_BACK}" stroke-width="2" points="{axes.points(measured)}"/>',
        f'<text x="{_WIDTH - 240}" y="18" fill="{_TRAINING}">training</text>',
        f'<text x="{_WIDTH - 170}" y="18" fill="{_HELD_BACK}">assistant, held back</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for loss in range(int(axes.top) + 1):
        y = axes.y(loss)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss}</text>')
    for tenth in range(0, 11, 2):
        tokens = axes.tokens * tenth / 10
        label = f"{tokens / 1e6:.1f}"
        parts.append(f'<text x="{axes.x(tokens):.1f}" y="{_HEIGHT - 24}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}">millions of tokens</text>')
    parts.append(f'<text x="{_LEFT - 40}" y="18">loss (nats a token)</text>')
    return parts


def _stage_lines(axes: _Axes, entries: Sequence[dict[str, Any]]) -> list[str]:
    parts = []
    for before, after in itertools.pairwise(entries):
        if before["stage"] != after["stage"]:
            x = axes.x(float(before["tokens"]))
            parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}" stroke="#bbbbbb"/>')
            parts.append(f'<text x="{x + 5:.1f}" y="{_TOP + 12}">{after["stage"]}</text>')
    return parts
