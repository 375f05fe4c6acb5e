"""What an engine is doing and has done, in numbers: for a server's metrics and its decision whom to let in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """A snapshot. The first line are levels; the others are counters, which only grow.

    `pages` of the cache: `pages_used` by requests, `pages_cached` kept for sharing and free to take; the rest is empty.
    `prompt_tokens` are those of prompts that were read to their end, `cached_tokens` of them found in the cache.
    `drafted_tokens` were guessed, and `accepted_tokens` of them guessed right.
    """

    waiting: int
    running: int
    pages: int
    pages_used: int
    pages_cached: int
    preemptions: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    failed_steps: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
