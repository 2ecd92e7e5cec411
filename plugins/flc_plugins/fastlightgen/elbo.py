"""ELBO block pruning (FastLightGen, arXiv:2603.01685, Eq 4), stage I.

    E^i = E_{t, x_t, x_0} || x_t - t v^{skip-i}(x_t, t) - x_0 ||^2

One block skipped at a time, on real clips; blocks are sorted by E^i and the top N_short stay. All variants
see the same clips, noise and times, so that E^i - E^baseline is a paired difference: its standard error,
over clips, gives the confidence interval. Isolated errors do not add (the core measures the removal of the whole set):
`search` (ours) scores again after each removal, or every set of blocks.

What an absence costs an untrained network says little about what training leaves of it. With `after` (ours) Eq 4 is of
a network that has been trained for some iterations with random blocks away, as many as the budget asks for; those
without which x0 is estimated worse than by the mean latent are never away: such a network has nothing to go on from.
`times` (ours) asks where the few-step student will, not along the whole path.

What the paper does not say of the clips is ours, and the same for every pruner: times uniform, through the model's own
shift, within [.02, .98]; half of the clips with their first frame given where the family takes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from typing import Any, Literal

import torch
from torch import Tensor

from flc.api import Budget, PrunableModel, PrunePlan, Pruner, Sample, View, option
from flc.api import Options as Base
from flc.errors import UserError
from flc.flow import noised
from flc.losses import masked_mean, tweedie_error

Kept = dict[str, tuple[int, ...]]
Block = tuple[str, int]
Data = Callable[[], Iterator[Sample]]
Errors = Mapping[Block | None, Tensor]
RANKING = {
    "ranking": "one-shot",
    "greedy": "scored again after each removal (greedy)",
    "sets": "every set of blocks",
}
#: Most sets that are scored one by one; 120 of three blocks of ten, 5.6 billion of twelve of forty.
MOST_SETS = 1000


class ElboPruner(Pruner):
    """Stage I, Eq 4: blocks by the x0 error without them; scores are those errors, per stack and block."""

    class Options(Base):
        samples: int = option(256, "noised clips that every variant is measured on", "ours", "clips", ge=2)
        search: Literal["ranking", "greedy", "sets"] = option(
            "ranking", "rank blocks once, re-score after each removal, or score every set", "paper ranks; ours"
        )
        after: int = option(
            0, "iterations of stage II, with random blocks removed, before blocks are scored", "ours", ge=0
        )
        times: Literal["path", "student"] = option(
            "path", "clips noised along the whole path, or at the few-step student's times", "ours"
        )

    def after(self) -> int:
        return int(self.options.after)

    def reads_schedule(self) -> bool:
        return bool(self.options.times == "student")

    def removable(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> Kept:
        """Blocks without which x0 is still estimated better than by its mean, 0; the cheapest next ones, too, where
        the budget asks for more."""
        errors = {key: float(e.mean()) for key, e in self.errors(model, self.data(model, batches)).items() if key}
        nothing = torch.cat([masked_mean(s.x0.square(), s.cond.free(s.x0)) for s in self.data(model, batches)()])
        chosen: list[Block] = []
        for block in sorted(errors, key=lambda block: errors[block]):
            if errors[block] < float(nothing.double().mean()) or not budget.fits(without(budget, chosen)):
                chosen.append(block)
        return {stack: tuple(sorted(i for s, i in chosen if s == stack)) for stack in budget.weights}

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        data, search = self.data(model, batches), self.options.search
        errors = self.errors(model, data)
        baseline = errors[None]
        scores = {s: [float(errors[s, i].mean()) for i in range(len(w))] for s, w in model.weights.items()}
        details: dict[str, Any] = {
            "baseline": float(baseline.mean()),
            "interval": {
                s: [interval(errors[s, i] - baseline) for i in range(len(w))] for s, w in model.weights.items()
            },
            "samples": self.options.samples,
            "ranking": RANKING[search],
            "times": list(model.sigmas) if self.reads_schedule() else "path",
        }
        if search == "ranking":
            kept = budget.select(scores)
        elif search == "greedy":
            kept = self._greedy(model, data, budget, errors)
        else:
            ranked = self.sets(model, data, budget)
            kept = ranked[0][1]
            details["sets"] = [{"error": error, "kept": blocks} for error, blocks in ranked[:10]]
        return PrunePlan(kept, scores, details)

    def data(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]]) -> Data:
        """The same clips, noise and times at every call."""

        def samples() -> Iterator[Sample]:
            seen = 0
            for s in batches(self.options.samples):
                if self.reads_schedule():  # each time in turn, so that every one has as many clips
                    turns = [model.sigmas[(seen + k) % len(model.sigmas)] for k in range(len(s.t))]
                    s = replace(s, t=s.t.new_tensor(turns))
                seen += len(s.t)
                yield s

        return samples

    def errors(self, model: PrunableModel, data: Data, kept: Kept | None = None) -> Errors:
        """Per-clip E (clips,) of the whole network (key None) and of each skip-one variant."""
        parts: dict[Block | None, list[Tensor]] = {}
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

    def sets(self, model: PrunableModel, data: Data, budget: Budget) -> list[tuple[float, Kept]]:
        """(E, kept) of every smallest removal that fits, the least error first."""
        sets = removals(budget)
        sums = [0.0] * len(sets)
        count = 0
        for s in data():
            x_t, free = noised(s.x0, s.x1, s.t), s.cond.free(s.x0)
            for i, kept in enumerate(sets):
                sums[i] += float(tweedie_error(x_t, model.velocity(s, View(kept)), s.t, s.x0, free).double().sum())
            count += len(s.t)
        return sorted(zip((total / count for total in sums), sets, strict=True), key=lambda pair: pair[0])


def without(budget: Budget, gone: list[Block]) -> Kept:
    """All blocks but those; the first one of a stack that would be empty stays."""
    left = {s: tuple(i for i in range(len(w)) if (s, i) not in gone) for s, w in budget.weights.items()}
    return {s: blocks or (0,) for s, blocks in left.items()}


def removals(budget: Budget) -> list[Kept]:
    """What stays of every set of blocks of which none could come back: with it the rest fits, with one block less away
    it would not. `UserError` where there are too many to score one by one."""
    depths = {s: len(w) for s, w in budget.weights.items()}
    every = product(*(range(n) for n in depths.values()))
    counts = [each for each in every if may_fit(budget, dict(zip(depths, each, strict=True)))]
    ways = sum(math.prod(math.comb(n, c) for n, c in zip(depths.values(), each, strict=True)) for each in counts)
    if ways > 100 * MOST_SETS:
        raise too_many(ways)
    out: list[Kept] = []
    for each in counts:
        choices = [combinations(range(n), n - c) for n, c in zip(depths.values(), each, strict=True)]
        for stays in product(*choices):
            kept = dict(zip(depths, stays, strict=True))
            if budget.fits(kept) and smallest(budget, kept):
                out.append(kept)
    if len(out) > MOST_SETS:
        raise too_many(len(out))
    return out


def may_fit(budget: Budget, gone: Mapping[str, int]) -> bool:
    """Whether removals of so many blocks of each stack can fit, where the heaviest go, and can all be needed: with
    one fewer away nothing would fit, where the lightest go."""
    rising = {s: sorted(range(len(w)), key=lambda i: w[i]) for s, w in budget.weights.items()}
    light = {s: tuple(sorted(order[: len(order) - gone[s]])) for s, order in rising.items()}
    heavy = {s: tuple(sorted(order[gone[s] :])) for s, order in rising.items()}
    fewer = [heavy | {s: tuple(sorted(order[gone[s] - 1 :]))} for s, order in rising.items() if gone[s]]
    return budget.fits(light) and not any(budget.fits(kept) for kept in fewer)


def smallest(budget: Budget, kept: Kept) -> bool:
    """Whether no block could come back."""
    for stack, weights in budget.weights.items():
        for i in range(len(weights)):
            if i not in kept[stack] and budget.fits(kept | {stack: tuple(sorted((*kept[stack], i)))}):
                return False
    return True


def too_many(ways: int) -> UserError:
    return UserError(f"pruner.search=sets would score {ways} sets of blocks, {MOST_SETS} at most: use "
                     "--set pruner.search=greedy")  # fmt: skip


def interval(difference: Tensor) -> tuple[float, float]:
    """95 % confidence interval of the mean of paired differences (normal approximation)."""
    mean, half = float(difference.mean()), 1.96 * float(difference.std()) / math.sqrt(len(difference))
    return mean - half, mean + half
