"""Every other block."""

from flc.api import PrunePlan, Pruner


class EveryOther(Pruner):
    def plan(self, model, batches, budget):
        scores = {s: [float(i % 2 == 0) for i in range(len(w))] for s, w in model.weights.items()}
        return PrunePlan(budget.select(scores), scores)
