"""Block influence (ShortGPT, arXiv:2403.03853): how much a block turns the hidden state.

    BI^i = 1 - E cos(h_i, h_{i+1}),   over tokens

h_i enters block i. One forward pass scores all blocks; the lowest go. Measured on noised real clips (ours: the
paper's tokens are text).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn.functional import cosine_similarity

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base


def block_influence(before: Tensor, after: Tensor) -> Tensor:
    """(B,): of hidden states (B, tokens, D)."""
    return (1 - cosine_similarity(before.float(), after.float(), dim=-1)).mean(1)


class ShortGptPruner(Pruner):
    class Options(Base):
        samples: int = option(256, "noised clips that blocks are measured on", "ours", "clips", ge=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        total = {s: [0.0] * len(w) for s, w in model.weights.items()}
        count = 0
        for sample in batches(self.options.samples):
            for (stack, i), influence in model.each_block(sample, block_influence).items():
                total[stack][i] += float(influence.double().sum())
            count += len(sample.t)
        scores = {s: [v / count for v in values] for s, values in total.items()}
        return PrunePlan(budget.select(scores), scores, {"samples": count})
