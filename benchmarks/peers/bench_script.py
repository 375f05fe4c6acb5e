"""What the peers' bench scripts share: llama-bench's options and one line of its table. Nothing is imported that a
script's own peak of memory would show."""

from __future__ import annotations

import argparse
import statistics


def parser(first_token: str) -> argparse.ArgumentParser:
    """FILE and llama-bench's options; `first_token` says what that option does."""
    options = argparse.ArgumentParser()
    options.add_argument("file")
    options.add_argument("-p", type=int, default=512)
    options.add_argument("-n", type=int, default=128)
    options.add_argument("-d", type=int, default=0)
    options.add_argument("-b", type=int, default=1)
    options.add_argument("-r", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--first-token", action="store_true", help=first_token)
    return options


def row(test: str, depth: int, sequences: int, speeds: list[float]) -> dict[str, object]:
    """A test's name as llama-bench writes it, and its speeds in tokens a second."""
    name = test + (f" @ d{depth}" if depth else "") + (f" x{sequences}" if sequences > 1 else "")
    return {"test": name, "median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
