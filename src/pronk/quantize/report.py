"""A comparison as a page to keep: Markdown, or HTML with nothing to load. Plots are SVG inside the page."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pronk.checkpoints.atomic import new_file
from pronk.errors import RequestError
from pronk.quantize.compare import PERCENTILES, Comparison

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 360, 80, 50
_COLOURS = ("#0b62a4", "#c44e00", "#2a7f3f", "#8a3ab9", "#b3123a", "#5a5a00", "#00808a", "#444444")
_LEAST = 1e-8  # where a logarithmic axis ends: a divergence may be zero

_COLUMNS = ("model", "size", "bits a weight", "perplexity", "ratio", "KL mean", "KL 99 %", "KL max", "top-1 equal",
            "shift rms", "largest shift")  # fmt: skip


def check_path(path: Path) -> None:
    """Raises RequestError for a name that is of no kind of report, or in no directory: said before the work is done."""
    if path.suffix not in (".md", ".html"):
        raise RequestError(f"a report is .md or .html, and {path} is neither")
    if not path.resolve().parent.is_dir():
        raise RequestError(f"the directory {path.parent} does not exist; make it first")


def write(path: Path, base: str, text: str, comparisons: Sequence[Comparison]) -> None:
    """The kind is told by the name's end. Raises RequestError for another, CheckpointError where it cannot be."""
    check_path(path)
    make = markdown if path.suffix == ".md" else page
    with new_file(path) as file:
        file.write(make(base, text, comparisons).encode())


def markdown(base: str, text: str, comparisons: Sequence[Comparison]) -> str:
    rows = "\n".join("| " + " | ".join(_cell(c) for c in row) + " |" for row in _rows(comparisons))
    head = "| " + " | ".join(_COLUMNS) + " |\n|" + "---|" * len(_COLUMNS)
    plots = "\n\n".join(svg for _, svg in _plots(comparisons))
    return f"# {_cell(base)}: what quantizing costs\n\n{_cell(_said(text, comparisons))}\n\n{head}\n{rows}\n\n{plots}\n"


def page(base: str, text: str, comparisons: Sequence[Comparison]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>\n" for row in _rows(comparisons)
    )
    plots = "\n".join(f"<h2>{html.escape(title)}</h2>\n{svg}" for title, svg in _plots(comparisons))
    title = html.escape(f"{base}: what quantizing costs")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n<style>{_STYLE}</style>'
        f"</head><body>\n<h1>{title}</h1>\n<p>{html.escape(_said(text, comparisons))}</p>\n"
        f"<table><tr>{head}</tr>\n{rows}</table>\n{plots}\n</body></html>\n"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:.85rem}"
    "td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def _said(text: str, comparisons: Sequence[Comparison]) -> str:
    return (
        f"{comparisons[0].tokens} tokens of {text}. KL: divergence from the base, in nats; shift: of the probability of"
        " the text's token."
    )


def _rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    return [
        [
            c.name, f"{c.nbytes / 1e6:.1f} MB", f"{c.bits_per_weight:.2f}", f"{c.perplexity:.4f}",
            f"{c.perplexity_ratio:.4f} ± {c.perplexity_ratio_stderr:.4f}", f"{c.kl.mean():.6f}",
            f"{np.percentile(c.kl, 99):.5f}", f"{c.kl.max():.4f}", f"{100 * c.agrees.mean():.2f} %",
            f"{100 * math.sqrt(np.square(c.shift).mean()):.2f} %", f"{100 * np.abs(c.shift).max():.1f} %",
        ]
        for c in comparisons
    ]  # fmt: skip


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


# --- plots ---


def _plots(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    sizes = [(c.name, [(c.nbytes / 1e6, float(c.kl.mean()))]) for c in comparisons]
    marks = sorted(PERCENTILES)
    spread = [(c.name, [(p, float(np.percentile(c.kl, p))) for p in marks]) for c in comparisons]
    return [
        ("Size and divergence", _plot(sizes, "MB", "mean KL divergence")),
        ("Divergence by percentile", _plot(spread, "percentile of tokens", "KL divergence")),
    ]


def _plot(series: Sequence[tuple[str, list[tuple[float, float]]]], x_name: str, y_name: str) -> str:
    """Points, and lines through those of one name; y is logarithmic."""
    xs = [x for _, points in series for x, _ in points]
    logs = [math.log10(max(y, _LEAST)) for _, points in series for _, y in points]
    low, high = _span(xs, 0.08)
    bottom, top = math.floor(min(logs)), math.floor(max(logs)) + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low)
        up = (math.log10(max(y, _LEAST)) - bottom) / (top - bottom)
        return _LEFT + across * (_WIDTH - _LEFT - 20), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - 20)

    parts = [_axes(place, (low, high), (bottom, top), x_name, y_name)]
    for i, (name, points) in enumerate(series):
        colour = _COLOURS[i % len(_COLOURS)]
        places = [place(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        anchor = "end" if x > _WIDTH * 0.7 else "start"
        shown = html.escape(name if len(name) < 40 else "…" + name[-38:])
        x += -8 if anchor == "end" else 8
        parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}" fill="{colour}">{shown}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-family='
        f'"sans-serif" font-size="12" role="img" aria-label="{html.escape(y_name)} by {html.escape(x_name)}">'
        + "".join(parts)
        + "</svg>"
    )


def _axes(
    place: Callable[[float, float], tuple[float, float]],
    xs: tuple[float, float],
    ys: tuple[int, int],
    x_name: str,
    y_name: str,
) -> str:
    parts = []
    for power in range(ys[0], ys[1] + 1):
        x, y = place(xs[0], 10.0**power)
        parts.append(f'<path d="M{x} {y:.1f}H{_WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for i in range(5):
        value = xs[0] + (xs[1] - xs[0]) * i / 4
        x, y = place(value, 10.0 ** ys[0])
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{value:.4g}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{html.escape(x_name)}</text>')
    turned = f'x="14" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {_HEIGHT / 2})"'
    parts.append(f"<text {turned}>{html.escape(y_name)}</text>")
    return "".join(parts)


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or max(abs(high), 1.0) * 0.1
    return low - room, high + room
