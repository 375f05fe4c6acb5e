"""What all routes share: the models that are served, the settings, the counts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass, field
from functools import cached_property

from pronk.api import Llama
from pronk.engine.grammar import Grammar
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.engine.service import EngineService
from pronk.errors import RequestError
from pronk.server.errors import ApiError
from pronk.server.metrics import Metrics
from pronk.server.settings import ServerSettings
from pronk.server.traces import Traces


@dataclass
class ServedModel:
    """A model, or a model with one of its adapters, which is served under a name of its own.

    `created`: seconds since 1970, when it was loaded. `in_flight`: requests handed to the engine that have not
    ended; only `run` changes it, in the event loop."""

    name: str
    llama: Llama
    service: EngineService
    created: int
    adapter: str | None = None
    in_flight: int = 0
    embedding: asyncio.Lock = field(default_factory=asyncio.Lock)  # one at a time: each brings a cache of its own

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same weights and settings: what OpenAI's clients compare beside a seed."""
        config = self.llama.engine_config
        facts = (self.name, self.adapter, self.llama.checkpoint.nbytes, self.llama.config, config.kv_type)
        return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def room_for(self, requests: int, max_queue: int) -> bool:
        """Whether so many more may be admitted, by our own count or by the engine's, whichever is the fuller."""
        running = self.llama.engine_config.max_sequences
        waiting = max(self.in_flight - running, self.service.stats().waiting, 0)
        return self.in_flight + requests <= running or waiting + requests <= max_queue


def with_adapters(name: str, llama: Llama) -> list[ServedModel]:
    """A model under a name, and with each of its adapters under the adapter's; its engine's thread is started."""
    service, now = llama.serve(), int(time.time())
    with contextlib.suppress(RequestError):  # a vocabulary that has no grammars says so to those who ask for one
        # Reads the vocabulary now, not at the first grammar: beside answers that run it would hold up all of them.
        service.check([Request((0,), SamplingParams(grammar=Grammar.json_object()))])
    return [ServedModel(name, llama, service, now)] + [ServedModel(a, llama, service, now, a) for a in llama.adapters]


@dataclass
class ServerState:
    """`draining`: told to stop; what was accepted is finished, and nothing new is. `active`: HTTP requests under way,
    but for those that ask how the server is."""

    settings: ServerSettings
    models: dict[str, ServedModel]
    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces = field(default_factory=Traces)
    draining: bool = False
    active: int = 0

    def __post_init__(self) -> None:
        assert self.models, "a server without a model"
        self.metrics.watch({name: model for name, model in self.models.items() if model.adapter is None})

    def model(self, name: str | None) -> ServedModel:
        """By name; without one, the first. Raises ApiError 404 that says which there are."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            there = ", ".join(map(repr, self.models))
            raise ApiError(
                404, f"there is no model {name[:200]!r}; there is {there}", "not_found",
                param="model", code="model_not_found",
            )  # fmt: skip
        return self.models[name]

    def adapted(self, adapter: str | None) -> ServedModel:
        """The first model, with the adapter of that name if one is given. Raises ApiError 422 that says which there
        are."""
        first = self.model(None)
        if adapter is None:
            return first
        there = {m.adapter: m for m in self.models.values() if m.adapter is not None and m.llama is first.llama}
        if adapter not in there:
            known = f"there is {', '.join(map(repr, there))}" if there else "no adapters are served; leave it out"
            raise ApiError(422, f"`adapter_id` is {adapter[:200]!r}, but {known}", param="adapter_id")
        return there[adapter]

    def check_open(self) -> None:
        """Before anything of a request is read: raises ApiError 503 when stopping, 429 when every queue is full."""
        if self.draining:
            raise ApiError(
                503, "the server is stopping and takes no new requests", "unavailable", code="draining", retry_after=5
            )
        if not any(model.room_for(1, self.settings.max_queue) for model in self.models.values()):
            raise self.overloaded()

    def overloaded(self) -> ApiError:
        self.metrics.refused.inc()
        return ApiError(
            429, "the queue is full; ask again later", "overloaded", code="queue_full", retry_after=1
        )  # fmt: skip

    def fault(self) -> str | None:
        """Why the server is not ready, or None."""
        if self.draining:
            return "stopping"
        for model in self.models.values():
            if not model.service.alive:
                return f"the engine of {model.name} has stopped"
            if (seconds := model.service.stalled_seconds) > self.settings.stall_seconds:
                return f"a step of {model.name} has got no further for {seconds:.0f} s"
        return None
