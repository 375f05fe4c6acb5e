"""Where a model's arithmetic runs. Each backend is imported when it is asked for: only torch.py needs PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pronk.errors import BackendError

if TYPE_CHECKING:
    from pronk.model.ops import Backend

NAMES = ("cpu", "torch", "cuda", "mps")


def make_backend(name: str, *, threads: int | None = None, dtype: str | None = None) -> Backend[Any]:
    """The backend called `name`: "cpu" (our kernels), "torch" (PyTorch on the CPU), "cuda" ("cuda:1" too), "mps".

    threads: CPU threads, by default the physical cores this process may use. dtype: what PyTorch computes in, by
    default float32 on the CPU and bfloat16 elsewhere; the cpu backend computes in the types of the file. Raises
    BackendError for a name, device, dtype or extra that is not here.
    """
    kind = name.partition(":")[0]
    if kind not in NAMES or (name != kind and kind != "cuda"):
        raise BackendError(f"unknown backend {name!r}, expected one of {', '.join(NAMES)}")
    if kind == "cpu":
        if dtype is not None:
            raise BackendError(
                f"the cpu backend computes in the types of the file; dtype {dtype!r} goes with torch, cuda, mps"
            )
        from pronk.backends.cpu import CpuBackend

        return CpuBackend(threads=threads)
    from pronk.backends.torch import TorchBackend

    return TorchBackend("cpu" if kind == "torch" else name, dtype=dtype, threads=threads)
