"""A stand-in: one thread for each submit, over the runner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from pronk.engine.request import Output, Request
from pronk.engine.runner import Runner
from pronk.engine.stats import EngineStats
from pronk.errors import EngineStopped


class EngineService:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._closed = False
        self._live: set[str] = set()

    def submit(self, requests: Sequence[Request], deliver: Callable[[Output], None]) -> None:
        if self._closed:
            raise EngineStopped("the engine has stopped")
        outputs = self._runner.run(requests)
        self._live |= {request.id for request in requests}

        def work() -> None:
            for output in outputs:
                if output.finish_reason:
                    self._live.discard(output.request_id)
                deliver(output)

        threading.Thread(target=work, daemon=True).start()

    def cancel(self, ids: Iterable[str]) -> None:
        self._runner.cancel([i for i in ids if i in self._live])

    def stats(self) -> EngineStats:
        scheduler = self._runner._engine.scheduler
        pages = scheduler.config.pages
        return EngineStats(
            waiting=len(scheduler.waiting), running=len(scheduler.running), pages=pages,
            pages_used=pages - scheduler.pool.free, preemptions=scheduler.preemptions,
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        return not self._closed

    @property
    def stalled_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        self._closed = True
        self.cancel(list(self._live))
