"""What a training costs on any machine: how many blocks ran on how many clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from flc.models.view import State, hidden_of

BACKWARD = 2
"""Forwards that a backward through a block counts as, whether its weights are trained or only its input's gradient is
asked for."""


class BlockEvaluations:
    """Counts block evaluations of single clips: 1 for a forward, `BACKWARD` for a backward through it.

    It counts what runs, so skipped blocks, a prefix that two networks share and steps of a rollout that some clips have
    left cost nothing. What gradient checkpointing runs again is left out (torch ends such a forward before its hooks):
    it is the price of memory, not of the method. So are embeddings, heads, optimizers and autoencoders.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks, self.count = list({id(block): block for block in blocks}.values()), 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What runs meanwhile, and a backward meanwhile through what ran meanwhile."""
        hooks = [block.register_forward_hook(self._ran) for block in self.blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _ran(self, block: nn.Module, arguments: Any, out: State) -> None:
        hidden = hidden_of(out)
        clips = len(hidden)
        self.count += clips
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: self._went_back(clips))

    def _went_back(self, clips: int) -> None:
        self.count += BACKWARD * clips
