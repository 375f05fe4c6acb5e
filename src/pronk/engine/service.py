"""A thread that steps the engine while there is work: for callers that cannot wait in their own, as an event loop.

It is one more reader of the Runner, so `llama.chat` and `complete` go on beside it and share its batches. Whoever
steps, outputs are handed to a service's callers in its own thread.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from pronk.engine.interrupts import HeldBack
from pronk.engine.request import NO_TIMINGS, Output, Request, Usage
from pronk.engine.runner import Box, Runner
from pronk.engine.stats import EngineStats
from pronk.errors import EngineStopped

Deliver = Callable[[Output], None]

_log = logging.getLogger(__name__)


class EngineService:
    """Its thread starts at once. It ends with `close`, when the service is collected, or when the program ends."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._worker = _Worker(runner)
        self._thread = threading.Thread(target=self._worker.work, name="pronk-engine", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._worker.stop).atexit = False
        _services.add(self)

    def check(self, requests: Sequence[Request]) -> None:
        """Raises RequestError for a request that can never run; runs none. From any thread."""
        self._runner.check(requests)

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """Run these requests together, and with all others. `deliver` gets each output, in the service's thread, and
        must return at once; one that raises is not called again, and its request is cancelled.

        Raises RequestError for a request that can never run, before any is queued; EngineStopped when the thread has
        ended.
        """
        self._worker.submit(requests, deliver)

    def cancel(self, ids: Iterable[str]) -> None:
        """From any thread. The last output says "cancelled", unless the request has ended another way before."""
        self._runner.cancel(list(ids))

    def stats(self) -> EngineStats:
        """From any thread; never waits for a step."""
        return self._runner.stats()

    @property
    def alive(self) -> bool:
        """False once requests are refused: after `close`, and after an error that ended the thread."""
        return self._thread.is_alive() and not self._worker.stopping

    @property
    def stalled_seconds(self) -> float:
        """Since the present step last got further, whoever runs it; 0 when idle."""
        return self._runner.stalled_seconds

    def close(self) -> None:
        """Cancel what runs, and end the thread once its last outputs have been delivered, after the present step."""
        self._worker.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()


_services: weakref.WeakSet[EngineService] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """No thread may be inside a kernel when the interpreter goes."""
    for service in list(_services):
        service.close()


class _Worker:
    """What the thread needs. It does not hold the EngineService, so that a service that is dropped ends its thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._box = Box()
        self._awake = threading.Condition(runner.lock)
        # Guarded by the runner's lock, like the boxes: a request is never in one of them alone.
        self._live: dict[str, tuple[Request, Deliver]] = {}
        self._error: BaseException | None = None
        self.stopping = False

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        self._runner.check(requests)  # takes time for a long prompt or a grammar
        with HeldBack(), self._runner.lock:
            if self.stopping:
                cause = f" by {self._error!r}" if self._error else ""
                raise EngineStopped(f"the engine was stopped{cause}; load the model again")
            self._runner.queue(requests, self._box)
            self._live.update((request.id, (request, deliver)) for request in requests)
            self._awake.notify()

    def stop(self) -> None:
        with HeldBack(), self._runner.lock:
            self.stopping = True
            self._awake.notify()
            if self._live:
                self._runner.cancel(list(self._live))

    def work(self) -> None:
        try:
            while self._has_work():
                self._runner.wait(self._box)
                self._hand_out()
        except BaseException as error:
            _log.critical("the engine's thread ends", exc_info=error)
            self._give_up(error)

    def _has_work(self) -> bool:
        """Sleeps until there is some. False when the thread is to end."""
        with self._runner.lock:
            while not self._live and not self.stopping:
                self._awake.wait()
            return bool(self._live)

    def _hand_out(self) -> None:
        while self._box:
            output = self._box.popleft()
            with self._runner.lock:
                waiting = self._live.get(output.request_id)
                if waiting and output.finish_reason:
                    del self._live[output.request_id]
            if waiting:
                self._call(waiting[1], output)

    def _call(self, deliver: Deliver, output: Output) -> None:
        try:
            deliver(output)
        except Exception:
            _log.exception("%s: its receiver failed, so it is cancelled", output.request_id)
            with self._runner.lock:
                self._live.pop(output.request_id, None)
                self._runner.forget([output.request_id])

    def _give_up(self, error: BaseException) -> None:
        """Nobody must wait for a thread that is gone."""
        with self._runner.lock:
            self.stopping, self._error = True, error
            lost, self._live = self._live, {}
        with contextlib.suppress(BaseException):  # an engine that failed once may fail again
            self._runner.forget(lost)
        stopped = EngineStopped(f"the engine was stopped by {error!r}; load the model again")
        stopped.__cause__ = error
        for request, deliver in lost.values():
            usage = Usage(len(request.prompt), 0)
            self._call(
                deliver, Output(request.id, finish_reason="error", usage=usage, timings=NO_TIMINGS, error=stopped)
            )
