"""Models in place of a running Llama's: one whose steps wait for the test, and one that says what it is told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pronk.api import Llama
from pronk.model.batch import Batch


class Gate:
    """The real model, whose steps begin only while the gate is open. `error` is raised instead of stepping."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config
        self.open = threading.Event()
        self.stepping = threading.Event()  # a step has come to the gate
        self.steps = 0
        self.error: BaseException | None = None

    def forward(self, batch: Batch, cache: Any) -> np.ndarray:
        self.steps += 1
        self.stepping.set()
        assert self.open.wait(120), "the test left the gate closed"
        if self.error:
            raise self.error
        return self._model.forward(batch, cache)


class Script:
    """The real model, that likes best the ids which it is given, one after the other: for one request at a time."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        self._model = model
        self.config = model.config
        self._ids = iter(ids)

    def forward(self, batch: Batch, cache: Any) -> np.ndarray:
        logits = self._model.forward(batch, cache).copy()
        if len(logits):
            logits[-1, next(self._ids)] = 1e4
        return logits


@contextlib.contextmanager
def gated(llama: Llama) -> Iterator[Gate]:
    """Every step of `llama` waits until the gate is opened, at the latest at the end of the block."""
    engine = llama._runner._engine
    model = engine.model
    engine.model = gate = Gate(model)
    try:
        yield gate
    finally:
        gate.open.set()
        engine.model = model


@contextlib.contextmanager
def scripted(llama: Llama, text: str, end: str = "<|eot_id|>") -> Iterator[None]:
    """The next answer, drawn greedily, is this text."""
    engine = llama._runner._engine
    model, tokenizer = engine.model, llama.tokenizer
    engine.model = Script(model, [*tokenizer.encode(text, bos=False), tokenizer.special_ids[end]])
    try:
        yield
    finally:
        engine.model = model
