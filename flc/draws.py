"""Randomness as a function of (seed, stage, step): nothing to save, a resumed or sharded run repeats it."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

#: The largest float32 below 1.
BELOW_ONE = 1 - 2**-24


class StepDraws:
    """The draws of one iteration (`flc.api.Draws`).

    Per-sample draws are made for the global batch and sliced by rank, so that k ranks see what one would.
    So each rank draws all of it on its CPU. At 64 ranks with one clip each of 81 frames of 480 x 832 (8.4 MB of
    latents) one `normal` takes 1.0 s of a core, on one rank 14 ms (a Xeon; the best of three).
    Shared draws come from a generator of their own, which no per-sample draw can shift: every rank makes the
    same ones, as ZeRO-3 needs for anything that decides which blocks run.
    """

    def __init__(self, seed: int, stage: str, step: int, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        words = np.random.SeedSequence([seed, zlib.crc32(stage.encode()), step]).generate_state(2, np.uint64)
        self._samples, self._shared = (torch.Generator().manual_seed(int(w) >> 1) for w in words)

    def _local(self, drawn: Tensor) -> Tensor:
        size = drawn.shape[0] // self.world
        return drawn[self.rank * size : (self.rank + 1) * size]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal in the shape of the local batch `like` (B, ...)."""
        shape = (like.shape[0] * self.world, *like.shape[1:])
        return self._local(torch.randn(shape, generator=self._samples)).to(like)

    def uniform(self, batch: int) -> Tensor:
        """(batch,) uniform in [0, 1), stratified over the global batch: lower variance at the same law."""
        total = batch * self.world
        strata = torch.randperm(total, generator=self._samples)
        drawn = (torch.rand(total, generator=self._samples) + strata) / total
        return self._local(drawn.clamp(max=BELOW_ONE))  # the last stratum's largest would be rounded to 1

    def integers(self, batch: int, stop: int) -> Tensor:
        return self._local(torch.randint(stop, (batch * self.world,), generator=self._samples))

    def shared_uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._shared, dtype=torch.float64))

    def shared_integer(self, stop: int) -> int:
        return int(torch.randint(stop, (), generator=self._shared))

    def shared_bernoulli(self, p: float, count: int) -> list[bool]:
        return (torch.rand(count, generator=self._shared, dtype=torch.float64) < p).tolist()
