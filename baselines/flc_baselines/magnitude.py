"""Control: a block is as important as its weights are large.

    I^i = mean |W| over the weight matrices of block i

Vectors (norms, biases) and tables of them (Wan's modulation) are left out: their size follows from their role, not from
their use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample


class MagnitudePruner(Pruner):
    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        scores = {s: [self.score(model, s, i) for i in range(len(w))] for s, w in model.weights.items()}
        return PrunePlan(budget.select(scores), scores)

    def score(self, model: PrunableModel, stack: str, block: int) -> float:
        matrices = [p for p in model.parameters_of(stack, block) if p.ndim == 2]
        return float(sum(p.abs().double().sum() for p in matrices)) / sum(p.numel() for p in matrices)
