"""One engine for several threads, without a thread of its own.

Whoever waits for an output and finds nobody stepping takes the next step, for all requests; the others sleep until it
is done and find their outputs in their boxes. So concurrent callers share batches, a single caller pays for no
hand-over between threads, and there is no background work to stop.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from pronk.engine.engine import Engine
from pronk.engine.interrupts import HeldBack, LetThrough
from pronk.engine.request import Output, Request

_HEARTBEAT = 1.0  # seconds after which a sleeper looks by itself, should its wake-up have been lost


class Runner:
    """The thread-safe face of an engine, which must not be touched past it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Guards what follows; the engine belongs to the one who steps.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._stepper: int | None = None  # a thread's ident
        self._boxes: dict[str, deque[Output]] = {}
        self._arrivals: list[Request] = []
        self._cancelled: list[str] = []

    def run(self, requests: Iterable[Request]) -> Outputs:
        """Queue requests that run together, and with those of other threads.

        Raises RequestError for a request that can never run, before any of them is queued.
        """
        wanted = list(requests)
        for request in wanted:
            self._engine.check(request)
        with HeldBack(), self._lock:
            self._boxes.update((request.id, deque()) for request in wanted)
            self._arrivals += wanted
            return Outputs(self, [request.id for request in wanted])

    def cancel(self, ids: Iterable[str]) -> None:
        """End requests before the next step and free their pages; a last output, "cancelled", says so."""
        with HeldBack(), self._lock:
            self._cancelled += ids
            self._settle_and_wake()

    def wait(self, ids: Iterable[str]) -> list[Output]:
        """The next outputs of any of these requests, which have not ended. Steps the engine if nobody else does.
        Whoever calls it holds interrupts back until the outputs are safe."""
        me = threading.get_ident()
        while True:
            try:
                with self._lock:
                    if found := self._take(ids):
                        return found
                    if self._stepper not in (None, me):
                        with LetThrough():
                            self._changed.wait(_HEARTBEAT)
                        continue
                    self._stepper = me
                    self._settle()
                    if found := self._take(ids):
                        return found
                    assert self._engine.busy, "a request ended without a last output"
                self._engine.run_step()
            finally:
                if self._stepper == me:
                    self._stepper = None
                    self._settle_and_wake()

    def forget(self, ids: Iterable[str]) -> None:
        """Nobody will ask for these outputs any more; what has not ended is cancelled."""
        with HeldBack(), self._lock:
            self.cancel([i for i in ids if self._boxes.pop(i, None) is not None])

    def _settle_and_wake(self) -> None:
        with self._lock:
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
            arrivals, self._arrivals = self._arrivals, []
            cancelled, self._cancelled = self._cancelled, []
            for request in arrivals:
                self._engine.add(request)
            self._deliver([output for i in cancelled if (output := self._engine.cancel(i))])

    def _take(self, ids: Iterable[str]) -> list[Output]:
        """The next output of each request that has one."""
        return [self._boxes[i].popleft() for i in ids if self._boxes[i]]

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.request_id in self._boxes:
                self._boxes[output.request_id].append(output)


class Outputs(Iterator[Output]):
    """The outputs of some requests as they come, until each has ended. Dropping it cancels what has not."""

    def __init__(self, runner: Runner, ids: list[str]) -> None:
        self._runner = runner
        self._live = dict.fromkeys(ids)  # in the order of the requests
        self._ready: deque[Output] = deque()

    def __next__(self) -> Output:
        with HeldBack():
            if not self._ready and self._live:
                self._ready += self._runner.wait(self._live)
        if not self._ready:
            raise StopIteration
        output = self._ready[0]
        if output.finish_reason:
            self._live.pop(output.request_id, None)
            self._runner.forget([output.request_id])
        return self._ready.popleft()

    def cancel(self) -> None:
        """End what is still going on. The last outputs can still be read."""
        self._runner.cancel(self._live)

    def __del__(self) -> None:
        if self._live:
            self._runner.forget(self._live)
