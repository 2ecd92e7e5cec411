"""Discriminator heads on a frozen network's hidden states (B, F, N, D): F latent frames of N tokens, width D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from flc.api import View
from flc.errors import UserError
from flc.models.condition import Condition
from flc.models.view import block_at


def shares(depths: tuple[float, ...]) -> tuple[float, ...]:
    if not depths or list(depths) != sorted(set(depths)) or not 0 < depths[0] <= depths[-1] <= 1:
        raise ValueError("depths are shares in (0, 1], ascending")
    return depths


Depths = Annotated[tuple[float, ...], AfterValidator(shares)]
"""Option: after which shares of a network's blocks heads look."""


class SpatialHead(nn.Module):
    """One logit per frame from its tokens (B, F). Knows nothing of the order of frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.logit = nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.logit(self.token(hidden.float()).mean(2)).squeeze(-1)


class TemporalHead(nn.Module):
    """One logit per frame from how frames follow one another (B, F): convolutions of 3 over time on frame means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.time = nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.SiLU(), nn.Conv1d(width, 1, 3, padding=1))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.time(self.frame(hidden.float()).mean(2).transpose(1, 2)).squeeze(1)


class Heads(nn.Module):
    """A head of each kind for each depth; a logit of each for each frame (B, heads, F)."""

    def __init__(self, width: int, depths: int, kinds: Sequence[type[nn.Module]]) -> None:
        super().__init__()
        self.kinds = len(kinds)
        self.heads = nn.ModuleList(kind(width) for _ in range(depths) for kind in kinds)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        per_head = [f for f in features for _ in range(self.kinds)]
        return torch.stack([head(f) for head, f in zip(self.heads, per_head, strict=True)], dim=1)


def check_depths(depths: Sequence[float], network: View) -> None:
    """`UserError` where two of them are the same block of the network."""
    assert network.kept is not None
    count = sum(map(len, network.kept.values()))
    if len({block_at(depth, count) for depth in depths}) < len(depths):
        raise UserError(f"depths {list(depths)} fall together on {count} blocks: give fewer")


def told_by(cond: Condition, x: Tensor) -> Tensor:
    """(B, 1, F): 0 for the logits of given frames, which are the same whoever made the clip."""
    return cond.free(x)[:, :, :, 0, 0]
