"""What an engine has done and is doing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """A snapshot. Counters only grow."""

    waiting: int = 0
    running: int = 0
    pages: int = 0
    pages_used: int = 0
    pages_cached: int = 0
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    failed_steps: int = 0
