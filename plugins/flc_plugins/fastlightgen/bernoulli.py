"""Robust, dynamically pruned training (FastLightGen, arXiv:2603.01685, Eq 5-7), stage II.

    L = (1-alpha) [ || v_pr - v* ||^2 + || v_unpr - v* ||^2 ] + alpha || v_pr - sg(v_unpr) ||^2

The unimportant blocks are skipped with probability p, all of them together (`draw=set`) or each by a coin of its own
(`block`); v_pr is the network with the drawn blocks skipped, v_unpr the one with all. p may rise over the stage, by the
same step each iteration from `p` to `p_end`. The paper prints v* = x0 - x1; Eq 4 and Eq 8 hold for v* = x1 - x0, used
here.

Stage III starts from the network without any of the n unimportant blocks, which is drawn with probability p (`set`) or
p^n (`block`): of n = 12 at p = .5, Wan-14B's, in every second iteration or in one of 4,096.

At alpha = 1, the paper's best, no gradient reaches v_unpr although it shares its weights with v_pr, so it
drifts unanchored: `anchor` chooses the paper's shared target or the frozen incoming network (ours), and the
drift || v_unpr - v_original || is logged. With the shared target at alpha = 1 an iteration that skips nothing would
have no loss at all, v_pr being v_unpr: there one block, drawn evenly, is skipped after all (`block`), or the set (in
every iteration, then: p has no effect).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from flc.api import Batch, Betas, Draws, Loss, Nets, Optim, RecoveryTrainer, Role, View, option
from flc.api import Options as Base
from flc.flow import noised, shifted
from flc.losses import flow_matching, masked_mean, velocity_matching


class BernoulliRecovery(RecoveryTrainer):
    """Stage II, Eq 5-7: one network that works with and without its unimportant blocks."""

    draws = True
    rare = "--set recovery.draw=set with a higher recovery.p or recovery.p_end"

    class Options(Base):
        alpha: float = option(1.0, "weight of distillation; 1 - alpha weighs the data", "paper, Table 4", ge=0, le=1)
        p: float = option(0.5, "probability that unimportant blocks are skipped", "paper", ge=0, le=1)
        p_end: float | None = option(None, "p rises or falls evenly to this; default: it stays", "ours", ge=0, le=1)
        draw: Literal["block", "set"] = option(
            "set", "one draw for all unimportant blocks, or one for each", "paper: its pruned network has none of them"
        )
        anchor: Literal["frozen", "shared"] = option(
            "frozen", "target: the incoming network, or the trained one itself", "ours; the paper's is shared"
        )
        lr: float = option(1e-5, "learning rate", "paper", gt=0)
        matrices: float = option(
            0.0, "Muon's rate for the blocks' weight matrices, in AdamW's place; 0: AdamW for all", "ours", ge=0
        )
        shift: float = option(3.0, "timestep shift of the training times", "ours", gt=0)
        betas: Betas = option((0.9, 0.999), "Adam's betas", "ours")
        weight_decay: float = option(0.01, "AdamW's", "ours", ge=0)
        clip: float = option(1.0, "largest gradient norm", "ours", gt=0)
        warmup: int = option(20, "iterations of linear warm-up", "ours", ge=0)
        ema: float = option(
            0.99, "decay of the averaged weights handed on, at most n / (n + 10) after n updates", "ours", ge=0, lt=1
        )
        drift_every: int = option(50, "iterations between measurements of the drift", "ours", ge=1)

        def unused(self) -> tuple[str, ...]:
            return ("p", "p_end") if self.draw == "set" and self.needs_skip else ()

        @property
        def needs_skip(self) -> bool:
            """Whether an iteration that skips nothing has no loss."""
            return self.alpha == 1 and self.anchor == "shared"

    def pruned_iterations(self) -> float:
        o, n, probabilities = self.options, len(self._removable()), map(self._p, range(self.setting.iterations))
        if n == 0 or "p" in o.unused():
            return self.setting.iterations
        if o.draw == "set":
            return sum(probabilities)
        alone = n == 1 and o.needs_skip  # what is skipped where nothing was drawn is then all of them
        return sum(p**n + (1 - p) * alone for p in probabilities)

    def real(self) -> Literal["original", "recovered"]:
        return "original" if self.options.anchor == "frozen" else "recovered"

    def roles(self) -> Mapping[str, Role]:
        o = self.options
        optim = Optim(o.lr, o.betas, o.weight_decay, o.clip, o.warmup, o.matrices)
        return {"student": Role("full", self.setting.full, optim, ema=o.ema), "original": Role("frozen")}

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        o, x0, cond = self.options, batch.x0, batch.cond
        x1, t = rng.normal(x0), shifted(rng.uniform(len(x0)), o.shift).to(x0.device)
        x_t, free = noised(x0, x1, t), cond.free(x0)
        v_pruned = nets["student"](x_t, t, cond, self._drawn(step, rng))
        metrics: dict[str, float] = {}
        measured, frozen = step % o.drift_every == 0, o.anchor == "frozen"
        if measured or frozen:
            with torch.no_grad():
                v_original = nets["original"](x_t, t, cond, self.setting.full)
        if o.alpha < 1 or measured or not frozen:
            with torch.set_grad_enabled(o.alpha < 1):
                v_unpruned = nets["student"](x_t, t, cond, self.setting.full)
        if measured:
            metrics["drift"] = float(masked_mean((v_unpruned.detach() - v_original).pow(2), free).mean())
        target = v_original if frozen else v_unpruned
        distil = velocity_matching(v_pruned, target, free)
        loss = o.alpha * distil
        metrics["distil"] = float(distil.detach())
        if o.alpha < 1:
            data = flow_matching(v_pruned, x0, x1, free) + flow_matching(v_unpruned, x0, x1, free)
            loss = loss + (1 - o.alpha) * data
            metrics["data"] = float(data.detach())
        return Loss(loss, metrics)

    def _p(self, step: int) -> float:
        o, last = self.options, max(1, self.setting.iterations - 1)
        return o.p if o.p_end is None else o.p + (o.p_end - o.p) * min(1.0, step / last)

    def _removable(self) -> list[tuple[str, int]]:
        """The blocks that the pruned network does not have."""
        full, pruned = self.setting.full.kept, self.setting.pruned.kept
        assert full is not None and pruned is not None
        return [(stack, i) for stack, blocks in full.items() for i in blocks if i not in pruned[stack]]

    def _drawn(self, step: int, rng: Draws) -> View:
        """The unpruned network without the blocks drawn to be skipped; the same on every rank."""
        if self.setting.draw is not None:
            return self.setting.draw(rng)
        o, p, removable = self.options, self._p(step), self._removable()
        if o.draw == "set":
            skip = removable if o.needs_skip or rng.shared_bernoulli(p, 1)[0] else []
        else:
            drawn = rng.shared_bernoulli(p, len(removable))
            skip = [block for block, gone in zip(removable, drawn, strict=True) if gone]
            if o.needs_skip and removable and not skip:
                skip = [removable[rng.shared_integer(len(removable))]]
        assert self.setting.full.kept is not None
        return View({s: tuple(i for i in blocks if (s, i) not in skip) for s, blocks in self.setting.full.kept.items()})
