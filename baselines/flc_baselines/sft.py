"""Plain recovery: the pruned network goes on with the training it came from.

    L = || v_pruned(x_t, t) - (x1 - x0) ||^2

The control of every other recovery, and what training-free pruners (F3) may be followed by. Blocks that are still to go
get no gradient and no decay: the unpruned network keeps them as they were.
"""

from __future__ import annotations

from collections.abc import Mapping

from flc.api import Batch, Betas, Draws, Loss, Nets, Optim, RecoveryTrainer, Role, option
from flc.api import Options as Base
from flc.flow import noised, shifted
from flc.losses import flow_matching


class PlainRecovery(RecoveryTrainer):
    class Options(Base):
        lr: float = option(1e-5, "learning rate", "ours, FastLightGen's", gt=0)
        matrices: float = option(
            0.0, "Muon's rate for the blocks' weight matrices, in AdamW's place; 0: AdamW for all", "ours", ge=0
        )
        shift: float = option(3.0, "timestep shift of the training times", "ours", gt=0)
        betas: Betas = option((0.9, 0.999), "Adam's betas", "ours")
        clip: float = option(1.0, "largest gradient norm", "ours", gt=0)
        warmup: int = option(20, "iterations of linear warm-up", "ours", ge=0)
        ema: float = option(
            0.99, "decay of the averaged weights handed on, at most n / (n + 10) after n updates", "ours", ge=0, lt=1
        )

    def roles(self) -> Mapping[str, Role]:
        o = self.options
        return {
            "student": Role(
                "full", self.setting.full, Optim(o.lr, o.betas, 0.0, o.clip, o.warmup, o.matrices), ema=o.ema
            )
        }

    def pruned_iterations(self) -> float:
        return self.setting.iterations

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        x0, cond = batch.x0, batch.cond
        x1, t = rng.normal(x0), shifted(rng.uniform(len(x0)), self.options.shift).to(x0.device)
        v = nets["student"](noised(x0, x1, t), t, cond, self.setting.pruned)
        return Loss(flow_matching(v, x0, x1, cond.free(x0)))
