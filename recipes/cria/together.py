"""Several processes that train one network: each takes a share of every batch, and gradients are added up.

On a CPU a process a core is faster than a thread a core: nothing waits for the other core but once a step, and what
PyTorch does on one thread runs on all. Without `run` there is one process, and the functions here do nothing.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def add_up(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its sum over all processes, in place; one message for all of them."""
    if count() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def run(processes: int, work: Callable[..., None], *arguments: Any) -> None:
    """work(*arguments) in so many processes on this machine; in this one where one is enough."""
    if processes == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory() as directory:
        meeting = (Path(directory) / "meeting").as_uri()
        torch.multiprocessing.spawn(_member, (os.getpid(), processes, meeting, work, arguments), nprocs=processes)


def _member(
    rank: int, parent: int, processes: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def _end_with(parent: int) -> None:
    """A killed parent cannot tell its children, which would train on unseen."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
