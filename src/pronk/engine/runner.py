"""One engine for several threads, without a thread of its own.

Whoever waits for an output and finds nobody stepping takes the next step, for all requests; the others sleep until it
is done and find their outputs in their boxes. So concurrent callers share batches, a single caller pays for no
hand-over between threads, and there is no background work to stop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pronk.engine.engine import Engine, Model, check_kept
from pronk.engine.interrupts import HeldBack, LetThrough
from pronk.engine.request import NO_TIMINGS, Output, Request, Usage
from pronk.engine.stats import EngineStats
from pronk.errors import RequestError

_HEARTBEAT = 1.0  # seconds after which a sleeper looks by itself, should its wake-up have been lost

Box = deque[Output]


class Runner:
    """The thread-safe face of an engine, which must not be touched past it. `lock` is never held during a step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Guards what follows; the engine belongs to the one who steps.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._stepper: int | None = None  # a thread's ident
        self._began: float | None = None  # when the present step did, by time.monotonic()
        self._boxes: dict[str, Box] = {}  # of the requests that have not ended
        self._arrivals: deque[Request] = deque()
        self._cancelled: list[str] = []

    def run(self, requests: Iterable[Request]) -> Outputs:
        """Queue requests that run together, and with those of other threads.

        Raises RequestError for a request that can never run, before any of them is queued.
        """
        wanted, box = list(requests), Box()
        self.check(wanted)
        with HeldBack():
            self.queue(wanted, box)
            return Outputs(self, [request.id for request in wanted], box)

    def check(self, requests: Iterable[Request]) -> None:
        """Raises RequestError for a request that can never run."""
        for request in requests:
            self._engine.check(request)

    def queue(self, requests: Sequence[Request], box: Box) -> None:
        """Queue checked requests, whose outputs will come into `box`; somebody has to `wait` for it. Raises
        RequestError for an id that is taken."""
        with self.lock:
            ids = [request.id for request in requests]
            for request_id in ids:
                if request_id in self._boxes or ids.count(request_id) > 1:
                    raise RequestError(f"the id {request_id!r} is taken, expected one that no other request has")
            self._boxes.update((request.id, box) for request in requests)
            self._arrivals += requests

    def cancel(self, ids: Iterable[str]) -> None:
        """End requests before the next step and free their pages; a last output, "cancelled", says so."""
        with HeldBack(), self.lock:
            self._cancelled += ids
            self._settle_and_wake()

    def wait(self, box: Box) -> None:
        """Until there is an output in the box of requests that have not ended. Steps the engine if nobody else does.
        Whoever calls it holds interrupts back until the outputs are safe."""
        me = threading.get_ident()
        while True:
            try:
                with self.lock:
                    if box:
                        return
                    if self._stepper not in (None, me):
                        with LetThrough():
                            self._changed.wait(_HEARTBEAT)
                        continue
                    self._stepper = me
                    self._settle()
                    if box:
                        return
                    assert self._engine.busy, "a request ended without a last output"
                self._began = time.monotonic()
                self._engine.run_step()
            finally:
                if self._stepper == me:
                    self._stepper = self._began = None
                    self._settle_and_wake()

    def forget(self, ids: Iterable[str]) -> None:
        """Nobody will ask for these outputs any more; what has not ended is cancelled."""
        with HeldBack(), self.lock:
            self.cancel([i for i in ids if self._boxes.pop(i, None) is not None])

    def use(self, model: Model, adapters: Mapping[str, int]) -> None:
        """From the next step on: the same model with other LoRA adapters, by their names. Raises RequestError where a
        request that has not ended would lose its own."""
        with self.lock:
            for request in self._arrivals:
                check_kept(request, adapters)
            self._engine.use(model, adapters)

    def keep_pages(self) -> None:
        """Keep every page for those that begin alike, until it is wanted for something else."""
        with self.lock:
            self._engine.scheduler.pool.keep = self._engine.config.pages

    def stats(self) -> EngineStats:
        """From any thread, and in the middle of a step too."""
        with self.lock:
            now = self._engine.stats()
            return replace(now, waiting=now.waiting + len(self._arrivals))

    @property
    def stalled_seconds(self) -> float:
        """Since the present step last got further (a layer takes a few milliseconds); 0 between steps."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - max(began, self._engine.beat)

    def _settle_and_wake(self) -> None:
        with self.lock:
            if self._stepper is None:
                self._stepper = threading.get_ident()
                try:
                    self._settle()
                finally:
                    self._stepper = None
            self._changed.notify_all()

    def _settle(self) -> None:
        """Hand out what the last step gave and carry out what was asked for since. By the one who steps; a collected
        `Outputs` may cancel in the middle of it, so what comes in meanwhile is looked for again."""
        self._deliver(self._engine.take_outputs())
        while self._arrivals or self._cancelled:
            while self._arrivals:
                self._add(self._arrivals.popleft())
            cancelled, self._cancelled = self._cancelled, []
            self._deliver([output for i in cancelled if (output := self._engine.cancel(i))])

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except Exception as error:  # `check` has passed; whatever it is, its caller waits for an answer
            usage = Usage(len(request.prompt), 0)
            self._deliver([Output(request.id, finish_reason="error", usage=usage, timings=NO_TIMINGS, error=error)])

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            box = self._boxes.get(output.request_id)
            if box is not None:
                box.append(output)
                if output.finish_reason:
                    del self._boxes[output.request_id]


class Outputs(Iterator[Output]):
    """The outputs of some requests as they come, until each has ended. Dropping it cancels what has not."""

    def __init__(self, runner: Runner, ids: list[str], box: Box) -> None:
        self._runner = runner
        self._live = dict.fromkeys(ids)
        self._box = box

    def __next__(self) -> Output:
        with HeldBack():
            if not self._box and self._live:
                self._runner.wait(self._box)
        if not self._box:
            raise StopIteration
        if self._box[0].finish_reason:
            self._live.pop(self._box[0].request_id, None)
        return self._box.popleft()

    def cancel(self) -> None:
        """End what is still going on. The last outputs can still be read."""
        self._runner.cancel(list(self._live))

    def __del__(self) -> None:
        if self._live:
            self._runner.forget(self._live)
