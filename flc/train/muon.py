"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), fast on every CPU.

    B_t = mu B_{t-1} + (1 - mu) g_t                    momentum
    O_t = NS5((1 - mu) g_t + mu B_t)                   Nesterov's look ahead, orthogonalised: singular values near 1
    W_t = (1 - lr wd) W_{t-1} - lr sqrt(max(1, rows / columns)) O_t

The step is `torch.optim.Muon`'s. That one iterates in bfloat16, which a CPU without bfloat16 units multiplies some
twenty times slower than float32: here it is float32 on a CPU and bfloat16 elsewhere, and matrices of one shape are
multiplied in one batch. The momentum is normalised by NS5, so a stale one moves a weight as far as a fresh one: a
matrix whose gradient is None (its block was skipped) keeps its weight and its momentum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

#: The quintic's coefficients and number of iterations, and the smallest norm divided by: Jordan et al.'s.
COEFFICIENTS, ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7
#: Most numbers orthogonalised in one batch: some copies of them are held at a time (.5 GB in float32).
AT_ONCE = 2**25


def orthogonalised(matrices: Tensor) -> Tensor:
    """(N, rows, columns) -> the same shape: each matrix's nearest orthogonal one, roughly.

    Five steps of a quintic Newton-Schulz iteration bring every singular value that is not tiny beside the Frobenius
    norm to between .68 and 1.21; a matrix of zeros stays zero.
    """
    x = matrices.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def batches(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The matrices by shape and device, in lists of up to `AT_ONCE` numbers."""
    groups: dict[Any, list[Tensor]] = {}
    for p in matrices:
        groups.setdefault((p.shape, p.device), []).append(p)
    for (shape, _), group in groups.items():
        count = max(1, AT_ONCE // shape.numel())
        yield from (group[i : i + count] for i in range(0, len(group), count))


class Muon(torch.optim.Optimizer):
    """Muon for matrices (rows, columns) alone; `lr` is the largest singular value of a step of a square one."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            for batch in batches(p for p in group["params"] if p.grad is not None):
                self._move(batch, group["lr"], group["weight_decay"], group["momentum"])

    def _move(self, batch: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        ahead = []
        for p in batch:
            grad: Any = p.grad
            buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            buffer.lerp_(grad, 1 - momentum)
            ahead.append(grad.lerp(buffer, momentum))
        rows, columns = batch[0].shape
        rate = lr * math.sqrt(max(1, rows / columns))
        for p, direction in zip(batch, orthogonalised(torch.stack(ahead)), strict=True):
            p.mul_(1 - lr * weight_decay).sub_(direction, alpha=rate)
