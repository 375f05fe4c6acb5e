"""Which kernels run, and on how many threads.

The environment variables PRONK_ISA (portable, avx2, avx512, neon, neon_i8mm) and PRONK_THREADS set the starting values,
for every program that uses the kernels; without them the best instruction set of this CPU and its usable physical cores
serve.
"""

from __future__ import annotations

import os

from pronk.errors import BackendError

try:
    from pronk.native import _core
except ImportError as error:
    raise BackendError(f"pronk's C++ kernels could not be loaded ({error}); reinstall pronk on this machine") from error

_MOST_THREADS = 1024


def isa() -> str:
    """The instruction set whose kernels run: "portable", "avx2", "avx512", "neon" or "neon_i8mm"."""
    name: str = _core.isa()
    return name


def isas() -> list[str]:
    """The instruction sets that this build has and this CPU can run, the slowest first."""
    names: list[str] = _core.isas()
    return names


def select_isa(name: str) -> None:
    """Takes the kernels of another instruction set from now on. Raises BackendError for one that cannot run here."""
    if not _core.select_isa(name):
        raise BackendError(f"instruction set {name!r} cannot run here, expected one of {', '.join(isas())}")


def threads() -> int:
    """Threads that a kernel is spread over, the caller's counted."""
    count: int = _core.threads()
    return count


def check_threads(count: int) -> None:
    """Raises BackendError for a count below one or absurdly high."""
    if not 1 <= count <= _MOST_THREADS:
        raise BackendError(f"{count} threads asked for, expected 1 to {_MOST_THREADS}")


def set_threads(count: int) -> None:
    """Raises BackendError as check_threads does."""
    check_threads(count)
    _core.set_threads(count)


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity mask and its cgroup's quota counted."""
    count: int = _core.usable_cores()
    return count


def _from_environment() -> None:
    if name := os.environ.get("PRONK_ISA"):
        try:
            select_isa(name)
        except BackendError as error:
            raise BackendError(f"environment variable PRONK_ISA: {error}") from None
    if text := os.environ.get("PRONK_THREADS"):
        try:
            set_threads(int(text))
        except (ValueError, BackendError):
            expected = f"a number from 1 to {_MOST_THREADS}"
            raise BackendError(f"environment variable PRONK_THREADS is {text!r}, expected {expected}") from None


_from_environment()
