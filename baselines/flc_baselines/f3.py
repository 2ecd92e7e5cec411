"""F3-Pruning (arXiv:2312.03459) for transformers with full space-time attention: training-free.

The paper ranks temporal attention layers by their aggregated attention values and drops the lowest. A video DiT has
no temporal layers; the part of its self-attention that does their work is what leaves the query's own frame (ours):

    A^i = E_q sum_{k: frame(k) != frame(q)} softmax(q k / sqrt d) / ((F-1)/F)

0 for attention within frames, 1 for uniform attention, mean over heads. Blocks with the lowest A go; there is nothing
to train (`--recovery none`; another recovery is an option, not the method). What single heads do is in the plan's
details, with the mask that the budget would leave of them: an analysis, since stock Wan cannot load fewer heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import mean

import torch

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base


class F3Pruner(Pruner):
    class Options(Base):
        samples: int = option(64, "noised clips whose attention is looked at", "ours", "clips", ge=1)
        queries: int = option(256, "query tokens per clip", "ours", "tokens", ge=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        total = {s: [torch.zeros(())] * len(w) for s, w in model.weights.items()}
        count = 0
        for sample in batches(self.options.samples):
            for (stack, i), share in model.cross_frame_attention(sample, self.options.queries).items():
                total[stack][i] = total[stack][i] + share.double().sum(0).cpu()
            count += len(sample.t)
        heads = {s: [(v / count).tolist() for v in values] for s, values in total.items()}
        scores = {s: [mean(of_block) for of_block in blocks] for s, blocks in heads.items()}
        details = {"samples": count, "queries": self.options.queries, "heads": heads, "head_mask": mask(heads, budget)}
        return PrunePlan(budget.select(scores), scores, details)


def mask(heads: Mapping[str, list[list[float]]], budget: Budget) -> dict[str, list[list[bool]]]:
    """Which heads would stay if the lowest went, each as heavy as the next, until a share `keep` is left."""
    every = sorted(share for blocks in heads.values() for of_block in blocks for share in of_block)
    least = every[min(len(every) - 1, len(every) - int(budget.keep * len(every) * (1 + 1e-9)))]
    return {s: [[share >= least for share in of_block] for of_block in blocks] for s, blocks in heads.items()}
