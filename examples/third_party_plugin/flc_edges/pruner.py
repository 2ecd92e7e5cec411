"""Keep both ends of each stack.

The first blocks turn noise into features and the last ones features into a velocity; the middle is where
neighbouring blocks are most alike. A block's score is its distance from the middle, counted in half stacks:

    score_i = | 2 i / (N - 1) - (1 + lean) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base


class EdgesPruner(Pruner):
    class Options(Base):
        lean: float = option(0.0, "moves the gap towards the end (1) or the start (-1)", "ours", ge=-1, le=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        scores = {stack: self.scores(len(weights)) for stack, weights in model.weights.items()}
        return PrunePlan(budget.select(scores), scores)

    def scores(self, blocks: int) -> list[float]:
        return [abs(2 * i / max(blocks - 1, 1) - (1 + self.options.lean)) for i in range(blocks)]
