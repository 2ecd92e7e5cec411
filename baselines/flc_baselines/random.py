"""Control: which blocks stay is drawn by lot. Run it with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base


class RandomPruner(Pruner):
    class Options(Base):
        seed: int = option(0, "seed of the lot", "ours", ge=0, le=2**31)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        rng = np.random.default_rng(self.options.seed)
        scores = {s: rng.random(len(w)).tolist() for s, w in model.weights.items()}
        return PrunePlan(budget.select(scores), scores)
