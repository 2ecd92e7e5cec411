"""First-order Taylor importance (Molchanov et al., arXiv:1906.10771) of whole blocks.

    I^i = E | dL / dg_i |  at g = 1,   h_{i+1} = h_i + g_i (block_i(h_i) - h_i)

The change of the loss when block i's residual is switched off, to first order: L(g_i = 0) ~ L - dL/dg_i. L is the
flow-matching loss of one noised real clip; one backward pass gives all gates' gradients. The mean is of absolute
values over clips (ours), so that gains and losses do not cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base
from flc.losses import flow_error


class TaylorPruner(Pruner):
    class Options(Base):
        samples: int = option(256, "noised clips that gradients are taken on", "ours", "clips", ge=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        total = {s: [0.0] * len(w) for s, w in model.weights.items()}
        count = 0
        for s in batches(self.options.samples):
            for (stack, i), gradient in model.gate_gradients(s, flow_error).items():
                total[stack][i] += float(gradient.abs().double().sum())
            count += len(s.t)
        scores = {s: [v / count for v in values] for s, values in total.items()}
        return PrunePlan(budget.select(scores), scores, {"samples": count})
