"""Control: remove blocks evenly spaced over the depth, whatever they do.

The k blocks removed of N are those nearest to the centres of k equal intervals, so the ends stay longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample


class UniformPruner(Pruner):
    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        most = max(len(w) for w in model.weights.values())
        for count in range(most):
            scores = {s: self.scores(len(w), round(count * len(w) / most)) for s, w in model.weights.items()}
            kept = {s: tuple(i for i, score in enumerate(v) if score) for s, v in scores.items()}
            if budget.fits(kept) and all(kept.values()):
                return PrunePlan(kept, scores)
        return PrunePlan(budget.select(scores), scores)

    def scores(self, blocks: int, count: int) -> list[float]:
        gone = {int((j + 0.5) * blocks / count) for j in range(count)} if count else set()
        return [float(i not in gone) for i in range(blocks)]
