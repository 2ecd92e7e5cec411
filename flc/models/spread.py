"""Clips of a batch among ranks: each evaluates its own, and every rank has the results of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flc.api import Sample


@dataclass(frozen=True)
class Spread:
    rank: int = 0
    world: int = 1

    def own(self, sample: Sample) -> tuple[Sample, int]:
        """This rank's clips, and how many of them count: where there are fewer clips than ranks, the last one is also
        evaluated by ranks that have none, since all must make the same calls."""
        if self.world == 1:
            return sample, len(sample.t)
        count = len(sample.t)
        begin = self.rank * self.each(count)
        end = min(begin + self.each(count), count)
        rows = slice(begin, end) if begin < end else slice(count - 1, count)
        part = Sample(sample.x0[rows], sample.x1[rows], sample.t[rows], sample.cond[rows])
        return part, max(0, end - begin)

    def each(self, count: int) -> int:
        return -(-count // self.world)

    def whole(self, part: Tensor, count: int) -> Tensor:
        """(count, ...) of every rank's own (n, ...), the same on all."""
        if self.world == 1:
            return part
        import torch.distributed as dist

        missing = self.each(count) - len(part)
        padded = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat(parts)[:count]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each parameter's gradient over the ranks, where it has one."""
        if self.world == 1:
            return
        import torch.distributed as dist

        for p in parameters:
            if p.grad is not None:
                dist.all_reduce(p.grad)
