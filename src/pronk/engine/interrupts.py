"""Ctrl-C where it does no harm. Python raises it between any two instructions of the main thread, and in the middle of
bookkeeping it would leave a sequence in no queue, or pages with no owner.

While it is held back another handler of SIGINT takes note, and the program's own is called afterwards. In other threads
nothing is interrupted, and nothing happens here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class _MainThread:
    """`own` is the program's handler while interrupts are held back, `noted` the one that came."""

    own: Callable[[int, FrameType | None], Any] | None = None
    noted: tuple[int, FrameType | None] | None = None

    def hold(self, own: Callable[[int, FrameType | None], Any]) -> None:
        signal.signal(signal.SIGINT, self._note)
        self.own = own

    def release(self) -> None:
        """Puts the program's handler back, and calls it for what came meanwhile."""
        if self.own is None:  # an interrupt came just when it was let through
            return
        own, self.own = self.own, None
        signal.signal(signal.SIGINT, own)
        noted, self.noted = self.noted, None
        if noted:
            own(*noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = (number, frame)


_main = _MainThread()


def _is_main() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class _Statement:
    """What is done at the end of a `with`, however it ends."""

    _end: Callable[[], None] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._end:
            self._end()


class HeldBack(_Statement):
    """`with HeldBack():` Ctrl-C in here is raised at the end. May be nested."""

    def __enter__(self) -> None:
        if _is_main() and _main.own is None and callable(own := signal.getsignal(signal.SIGINT)):
            _main.hold(own)
            self._end = _main.release


class LetThrough(_Statement):
    """`with LetThrough():` inside of `HeldBack`: Ctrl-C is raised at once, and what came before at the start."""

    def __enter__(self) -> None:
        own = _main.own
        if own is None or not _is_main():
            return
        self._end = lambda: _main.hold(own)
        try:
            _main.release()
        except BaseException:
            _main.hold(own)
            raise
