"""What the contract's tests share: small shapes, the registry's names, noised clips, a network in plain torch."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flc.api import Sample
from flc.models.condition import Condition
from flc.registry import registry

C, F, H, W = 4, 3, 4, 4  # latent channels, frames, height, width
B, D = 4, 8  # samples of a batch, width of a text row


def of_kind(*kinds: str) -> list[Any]:
    return [(p.kind, p.algorithm.name) for p in registry().provided if p.kind in kinds]


def make_condition(batch: int = B, image: bool = True, seed: int = 0) -> Condition:
    g = torch.Generator().manual_seed(seed)
    text, null = torch.randn(batch, 5, D, generator=g), torch.randn(1, 1, D, generator=g)
    if not image:
        return Condition(text, null)
    return Condition(text, null, torch.randn(batch, C, 1, H, W, generator=g), torch.arange(batch) % 2 == 0)


def make_samples(count: int, seed: int = 0) -> Iterator[Sample]:
    """`count` noised clips in batches of B, the same at every call."""
    g = torch.Generator().manual_seed(seed)
    for begin in range(0, count, B):
        size = min(B, count - begin)
        x0, x1 = torch.randn(2, size, C, F, H, W, generator=g)
        t = 0.05 + 0.9 * torch.rand(size, generator=g)
        yield Sample(x0, x1, t, make_condition(size, seed=begin))


class Blocks(nn.Module):
    """v = sum over kept blocks of a residual walk; block i has (i % 3 + 1) matrices, so blocks weigh unequally, and
    a feed-forward layer of 16 channels."""

    def __init__(self, stacks: Mapping[str, int]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stacks = nn.ModuleDict(
            {s: nn.ModuleList(nn.Sequential(*[nn.Linear(C, C) for _ in range(i % 3 + 1)], self.feed_forward())
                              for i in range(n)) for s, n in stacks.items()}
        )  # fmt: skip

    @staticmethod
    def feed_forward() -> nn.Module:
        return nn.Sequential(nn.Linear(C, 16), nn.GELU(), nn.Linear(16, C))

    def walk(
        self, x: Tensor, t: Tensor, text: Tensor, kept: Mapping[str, tuple[int, ...]] | None,
        gates: Mapping[tuple[str, int], Tensor] | None = None,
    ) -> Iterator[tuple[tuple[str, int], Tensor, Tensor]]:  # fmt: skip
        """Hidden states (B, F, H, W, C) before and after each kept block."""
        h = x.movedim(1, -1) + t.view(-1, 1, 1, 1, 1) + 0.1 * text.mean((1, 2)).view(-1, 1, 1, 1, 1)
        for stack, blocks in self.stacks.items():
            for i, block in enumerate(blocks):  # type: ignore[arg-type]
                if kept is None or i in kept[stack]:
                    gate = 1.0 if gates is None else gates[stack, i].view(-1, 1, 1, 1, 1)
                    before, h = h, h + gate * torch.tanh(block(h))
                    yield (stack, i), before, h

    def forward(self, x: Tensor, t: Tensor, text: Tensor, kept: Any = None, gates: Any = None) -> Tensor:
        *_, (_, _, h) = self.walk(x, t, text, kept, gates)
        return h.movedim(-1, 1)
