"""Muon: momentum whose update is made orthogonal, so that every direction of a matrix learns at the same pace.

Source: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), with its quintic Newton-Schulz
iteration and its factor for matrices that are not square. At this size it needs about half the steps of AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recipes.cria import together

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic: steep at zero, and everything ends near one
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices only. A group's `parts` are the row counts of the matrices that each of its parameters fuses; none
    where a parameter is one matrix. Matrices of one shape are taken together, which is what makes it cheap.

    Where several processes train together, whose gradients are equal by now, each makes its share of the updates.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(groups), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": ()})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parts = group["parts"] or [len(parameter)]
                steps = self._momentum(parameter, group["momentum"]).split(parts)
                for matrix, step in zip(parameter.split(parts), steps, strict=True):
                    by_shape.setdefault(tuple(matrix.shape), []).append((matrix, step, group["lr"]))
        updates = [_shared_out(torch.stack([step for _, step, _ in work])) for work in by_shape.values()]
        together.add_up(updates)
        for ((rows, columns), work), stack in zip(by_shape.items(), updates, strict=True):
            for (matrix, _, rate), update in zip(work, stack.unbind(), strict=True):
                matrix.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's: the gradient, and what the running mean will be after it."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        mean = state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(mean, momentum)


def _shared_out(matrices: Tensor) -> Tensor:
    """This process's share made orthogonal, the others zero: the sum over all processes is the whole."""
    mine = slice(together.rank(), None, together.count())
    out = torch.zeros_like(matrices)
    if len(matrices[mine]):
        out[mine] = orthogonal(matrices[mine])
    return out


def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) -> the same with all singular values near 1 (0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
