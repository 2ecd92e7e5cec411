"""ELBO block pruning (FastLightGen, arXiv:2603.01685, Eq 4), stage I.

    E^i = E_{t, x_t, x_0} || x_t - t v^{skip-i}(x_t, t) - x_0 ||^2

One block skipped at a time, on real clips; blocks are sorted by E^i and the top N_short stay. All variants
see the same clips, noise and times, so that E^i - E^baseline is a paired difference: its standard error,
over clips, gives the confidence interval. Isolated errors do not add (the core measures the removal of the whole set):
`greedy` (ours) re-scores after each removal. What the paper does not say of the clips is ours, and the same for every
pruner: times uniform, through the model's own shift, within [.02, .98]; half of the clips with their first frame given
where the family takes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base
from flc.flow import noised
from flc.losses import tweedie_error

Kept = dict[str, tuple[int, ...]]
Data = Callable[[], Iterator[Sample]]
Errors = Mapping[tuple[str, int] | None, Tensor]


class ElboPruner(Pruner):
    """Stage I, Eq 4: blocks by the x0 error without them; scores are those errors, per stack and block."""

    class Options(Base):
        samples: int = option(256, "noised clips that every variant is measured on", "ours", "clips", ge=2)
        greedy: bool = option(False, "re-score after each removal instead of ranking once", "ours; paper ranks once")

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        def data() -> Iterator[Sample]:
            return batches(self.options.samples)  # the same clips, noise and times at every call

        errors = self.errors(model, data)
        baseline = errors[None]
        scores = {s: [float(errors[s, i].mean()) for i in range(len(w))] for s, w in model.weights.items()}
        kept = self._greedy(model, data, budget, errors) if self.options.greedy else budget.select(scores)
        details: dict[str, Any] = {
            "baseline": float(baseline.mean()),
            "interval": {
                s: [interval(errors[s, i] - baseline) for i in range(len(w))] for s, w in model.weights.items()
            },
            "samples": self.options.samples,
            "ranking": "scored again after each removal (greedy)" if self.options.greedy else "one-shot",
        }
        return PrunePlan(kept, scores, details)

    def errors(self, model: PrunableModel, data: Data, kept: Kept | None = None) -> Errors:
        """Per-clip E (clips,) of the whole network (key None) and of each skip-one variant."""
        parts: dict[tuple[str, int] | None, list[Tensor]] = {}
        for s in data():
            x_t = noised(s.x0, s.x1, s.t)
            for skipped, v in model.skip_each(s, kept):
                parts.setdefault(skipped, []).append(tweedie_error(x_t, v, s.t, s.x0, s.cond.free(s.x0)))
        return {skipped: torch.cat(values).cpu().double() for skipped, values in parts.items()}

    def _greedy(self, model: PrunableModel, data: Data, budget: Budget, errors: Errors) -> Kept:
        """Blocks that stay when the least important one of those left goes (but the last of a stack), until the rest
        fits; `errors` are those of the whole network."""
        kept: Kept = {s: tuple(range(len(w))) for s, w in model.weights.items()}
        while not budget.fits(kept) and max(map(len, kept.values())) > 1:
            candidates = [key for key in errors if key is not None and len(kept[key[0]]) > 1]
            stack, block = min(candidates, key=lambda key: float(errors[key].mean()))
            kept[stack] = tuple(i for i in kept[stack] if i != block)
            if not budget.fits(kept):
                errors = self.errors(model, data, kept)
        return kept


def interval(difference: Tensor) -> tuple[float, float]:
    """95 % confidence interval of the mean of paired differences (normal approximation)."""
    mean, half = float(difference.mean()), 1.96 * float(difference.std()) / math.sqrt(len(difference))
    return mean - half, mean + half
