"""Robust, dynamically pruned training (FastLightGen, arXiv:2603.01685, Eq 5-7), stage II.

    L = (1-alpha) [ || v_pr - v* ||^2 + || v_unpr - v* ||^2 ] + alpha || v_pr - sg(v_unpr) ||^2

Each unimportant block is skipped with probability p; v_pr is the network with the drawn blocks skipped,
v_unpr the one with all. The paper prints v* = x0 - x1; Eq 4 and Eq 8 hold for v* = x1 - x0, used here.

At alpha = 1, the paper's best, no gradient reaches v_unpr although it shares its weights with v_pr, so it
drifts unanchored: `anchor` chooses the paper's shared target or the frozen incoming network (ours), and the
drift || v_unpr - v_original || is logged.
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

    class Options(Base):
        alpha: float = option(1.0, "weight of distillation; 1 - alpha weighs the data", "paper, Table 4", ge=0, le=1)
        p: float = option(0.5, "probability that an unimportant block is skipped", "paper", ge=0, le=1)
        draw: Literal["block", "set"] = option(
            "block", "each block on its own, or all of them together", "ours: the paper leaves it open"
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
        v_pruned = nets["student"](x_t, t, cond, self._drawn(rng))
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

    def _drawn(self, rng: Draws) -> View:
        """The unpruned network without the blocks drawn to be skipped; the same on every rank."""
        if self.setting.draw is not None:
            return self.setting.draw(rng)
        o, full = self.options, self.setting.full.kept
        pruned = self.setting.pruned.kept
        assert full is not None and pruned is not None
        whole_set = rng.shared_bernoulli(o.p, 1)[0]
        kept: dict[str, tuple[int, ...]] = {}
        for stack, blocks in full.items():
            removable = [i for i in blocks if i not in pruned[stack]]
            drawn = rng.shared_bernoulli(o.p, len(removable))
            skip = {i for i, d in zip(removable, drawn, strict=True) if (whole_set if o.draw == "set" else d)}
            kept[stack] = tuple(i for i in blocks if i not in skip)
        return View(kept)
