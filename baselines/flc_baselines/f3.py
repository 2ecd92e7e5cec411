"""F3-Pruning (arXiv:2312.03459) for transformers with full space-time attention: training-free.

The paper ranks temporal attention layers by their aggregated attention values and drops the lowest. A video DiT has
no temporal layers; the part of its self-attention that does their work is what leaves the query's own frame (ours):

    A^i = E_q sum_{k: frame(k) != frame(q)} softmax(q k / sqrt d) / ((F-1)/F)

0 for attention within frames, 1 for uniform attention. Blocks with the lowest A go; there is nothing to train
(`--recovery none`; another recovery is an option, not the method).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base


class F3Pruner(Pruner):
    class Options(Base):
        samples: int = option(64, "noised clips whose attention is looked at", "ours", "clips", ge=1)
        queries: int = option(256, "query tokens per clip", "ours", "tokens", ge=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        total = {s: [0.0] * len(w) for s, w in model.weights.items()}
        count = 0
        for sample in batches(self.options.samples):
            for (stack, i), share in model.cross_frame_attention(sample, self.options.queries).items():
                total[stack][i] += float(share.double().sum())
            count += len(sample.t)
        scores = {s: [v / count for v in values] for s, values in total.items()}
        return PrunePlan(budget.select(scores), scores, {"samples": count, "queries": self.options.queries})
