"""Narrower feed-forward layers with Torch-Pruning (arXiv:2301.12900), alone or together with fewer blocks.

    I_c = mean over the layers of channel c's group of sum | w dL/dw |        (taylor, arXiv:1906.10771)
    I_c = mean over the layers of the group of || w ||_2^2                   (magnitude)

over the weights w of a layer that belong to the channel, biases left out, divided by the mean over channels.

A channel's group is what has to go with it, which Torch-Pruning's dependency graph finds. L is the flow-matching loss
of noised real clips. Stock configs know one `ffn_dim`: every block keeps the same number of channels, each its own
best ones. As many go as the budget asks; where `least` of them is not few enough, blocks go too, those first whose
absence makes the smallest x0 error (as in Eq 4 of arXiv:2603.01685). Ours: which layers, the uniform number, `least`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, option
from flc.api import Options as Base
from flc.flow import noised
from flc.losses import flow_error, tweedie_error

try:
    import torch_pruning
except ImportError as error:
    raise ImportError(f"{error}: pip install 'flc[prune]'") from error


class WidthPruner(Pruner):
    class Options(Base):
        importance: Literal["taylor", "magnitude"] = option("taylor", "how channels are ranked", "ours")
        samples: int = option(64, "noised clips that gradients and errors are taken on", "ours", "clips", ge=1)
        least: float = option(
            0.25, "smallest share of the channels that stays; beyond it blocks go", "ours", gt=0, le=1
        )
        multiple: int = option(8, "channels stay in multiples of this", "ours", "channels", ge=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        o, whole = self.options, {s: tuple(range(len(w))) for s, w in model.weights.items()}
        with model.gradients(batches(o.samples) if o.importance == "taylor" else (), flow_error):
            ranked = {s: [self.importance(model.feed_forward(s, i)) for i in blocks] for s, blocks in whole.items()}
        stay = self.counts(budget)
        channels = {s: tuple(best(values, stay[s]) for values in blocks) for s, blocks in ranked.items()}
        narrower = None if stay == {s: n for s, (n, _) in budget.ffn.items()} else channels
        scores = self.errors(model, batches)
        details = {"channels": stay, "importance": o.importance, "samples": o.samples}
        return PrunePlan(budget.select(scores, narrower), scores, details, narrower)

    def importance(self, ffn: nn.Module) -> Tensor:
        """(channels,)"""
        makes = next(module for module in ffn.modules() if isinstance(module, nn.Linear))
        example = torch.zeros(1, 1, makes.in_features, device=makes.weight.device, dtype=makes.weight.dtype)
        graph = torch_pruning.DependencyGraph().build_dependency(ffn, example_inputs=example)
        everything = list(range(makes.out_features))
        group = graph.get_pruning_group(makes, torch_pruning.prune_linear_out_channels, idxs=everything)
        taylor = self.options.importance == "taylor"
        kinds = torch_pruning.importance
        measure = kinds.GroupTaylorImportance() if taylor else kinds.GroupMagnitudeImportance(p=2)
        return measure(group).detach().float().cpu()

    def counts(self, budget: Budget) -> dict[str, int]:
        """Channels that stay, per stack: the most that fit with every block in place, but no fewer than `least`."""
        o, blocks = self.options, {s: tuple(range(len(w))) for s, w in budget.weights.items()}
        largest = max(n for n, _ in budget.ffn.values())
        fewer = range(largest - largest % o.multiple, 0, -o.multiple)
        for stay in (largest, *(n for n in fewer if n >= o.least * largest)):
            counts = {s: self.rounded(n * stay // largest, n) for s, (n, _) in budget.ffn.items()}
            if budget.fits(blocks, {s: [range(counts[s])] * len(indices) for s, indices in blocks.items()}):
                break
        return counts

    def rounded(self, count: int, whole: int) -> int:
        return (
            count if count == whole else max(count - count % self.options.multiple, min(self.options.multiple, whole))
        )

    def errors(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]]) -> dict[str, list[float]]:
        """E of each block's absence, in the network as it is."""
        total = {s: [0.0] * len(w) for s, w in model.weights.items()}
        for s in batches(self.options.samples):
            x_t, free = noised(s.x0, s.x1, s.t), s.cond.free(s.x0)
            for skipped, v in model.skip_each(s):
                if skipped is not None:
                    total[skipped[0]][skipped[1]] += float(tweedie_error(x_t, v, s.t, s.x0, free).double().sum())
        return {s: [value / self.options.samples for value in values] for s, values in total.items()}


def best(values: Tensor, count: int) -> tuple[int, ...]:
    return tuple(sorted(values.topk(count).indices.tolist()))
