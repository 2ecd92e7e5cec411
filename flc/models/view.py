"""Sub-networks as views of one set of weights, and their physical removal.

diffusers' transformers loop over a `ModuleList`. A view exchanges that list, for the length of one call, for
a list of the same block objects: no hooks, no second forward to maintain, parameters shared. Skipping by
view equals removing, bit for bit. (A shallow copy of the model with a list of its own breaks under ZeRO-3.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flc.api import Kept


def blocks_of(model: nn.Module, stack: str) -> list[nn.Module]:
    blocks: Any = model._modules[stack]
    return list(blocks)


@contextmanager
def exchanged(model: nn.Module, stack: str, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Run `model` with another list of blocks under the name `stack`."""
    original = model._modules[stack]
    model._modules[stack] = nn.ModuleList(blocks)
    try:
        yield
    finally:
        model._modules[stack] = original


@contextmanager
def view(model: nn.Module, kept: Kept | None) -> Iterator[None]:
    """Run `model` on the kept blocks of each stack; None keeps all."""
    if not kept:
        yield
        return
    (stack, indices), *rest = kept.items()
    blocks = blocks_of(model, stack)
    with exchanged(model, stack, [blocks[i] for i in indices]), view(model, dict(rest)):
        yield


def block_at(depth: float, count: int) -> int:
    """After how many of `count` blocks a share of the depth lies; 1 at least."""
    return max(1, round(depth * count))


class Tap(nn.Module):
    """A pseudo-block that records the hidden states passing it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Any = None

    def forward(self, hidden: Tensor, *args: Any) -> Tensor:
        self.hidden = hidden
        return hidden


class Inject(nn.Module):
    """A pseudo-block that stands where a prefix stood and returns its recorded hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, hidden: Tensor, *args: Any) -> Tensor:
        return self.hidden


class Gated(nn.Module):
    """A pseudo-block h + g (block(h) - h): one gate g per sample, at 1, where the block is untouched."""

    def __init__(self, block: nn.Module, batch: int, device: torch.device) -> None:
        super().__init__()
        self.inner = [block]  # a list, so that the block stays registered where it is
        self.gate = torch.ones(batch, 1, 1, device=device, requires_grad=True)

    def forward(self, hidden: Tensor, *args: Any) -> Tensor:
        return hidden + self.gate.to(hidden.dtype) * (self.inner[0](hidden, *args) - hidden)


class Sweep(nn.Module):
    """A pseudo-block that runs a whole stack and all its skip-one variants, touching each block once.

    Skip-i shares its prefix with the whole network, so variants are born as the walk reaches them:
    N + N(N-1)/2 block evaluations instead of N + N(N-1). Variants are looped over, not batched, which keeps
    each bit-identical to running it alone.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = blocks  # plain attribute: the blocks stay registered where they are
        self.variants: list[Tensor] = []
        self.evaluations = 0

    def forward(self, hidden: Tensor, *args: Any) -> Tensor:
        self.variants = []
        for block in self.blocks:
            self.variants = [block(v, *args) for v in self.variants]
            self.variants.append(hidden)
            hidden = block(hidden, *args)
            self.evaluations += len(self.variants)
        return hidden


def removed(model: nn.Module, kept: Kept | None, depth_fields: dict[str, str]) -> nn.Module:
    """A copy of `model` (a diffusers model) without the other blocks, its config's depth fields corrected.

    The copy's state dict is keyed contiguously, so stock `from_pretrained` reads what `save_pretrained` writes
    with no missing and no unexpected key. (Changing the depth field alone silently keeps the first blocks.)
    """
    with view(model, kept):
        copied: Any = copy.deepcopy(model)
    for stack, indices in (kept or {}).items():
        copied.register_to_config(**{depth_fields[stack]: len(indices)})
    return copied
