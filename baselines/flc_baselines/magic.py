"""MagicDistillation (arXiv:2503.13319): the fake is a low-rank branch on the teacher, which leans to it.

    v_fake = v_{W + a_strong BA}(c),   v_real = CFG of v_{W + a_weak BA}
    L_fake = E || v_fake(x_t) - (x1 - sg(x)) ||^2 + w E || v_fake(y_t) - (x1 - y) ||^2

Weak-to-strong matching: a_weak moves the real side slightly towards the fake, so that the two distributions overlap
where the student is still far off. y is a real clip: the paper keeps the fake near the ground truth. Only the paper's
abstract could be read: a_weak, w and a_strong are ours. Distiller and teacher belong together:
`--distiller magic --teacher magic`; with a_weak = 0 and w = 0 it is DMD with a LoRA fake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from flc.api import Batch, Draws, Loss, Nets, Query, TeacherComposer, option
from flc.api import Options as Base
from flc.flow import guided, noised
from flc.losses import flow_matching
from flc.matching import DistributionMatching, MatchingOptions

if TYPE_CHECKING:
    from torch import Tensor


class MagicDistiller(DistributionMatching):
    class Options(MatchingOptions):
        fake: Literal["lora"] = option("lora", "fake as a LoRA on the frozen teacher", "paper")
        data: float = option(0.1, "weight w of the fake's distance to real clips", "ours", ge=0)

    def fake_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        loss, weight = super().fake_loss(nets, batch, rng), self.options.data
        if not weight:
            return loss
        x0, cond = batch.x0, batch.cond
        x1, t = rng.normal(x0), self.times(x0, rng)
        v = nets["fake"](cond.clamp(noised(x0, x1, t)), t, cond)
        data = flow_matching(v, x0, x1, cond.free(x0))
        return Loss(loss.value + weight * data, {"data": float(data.detach())})


class MagicTeacher(TeacherComposer):
    class Options(Base):
        scale: float = option(3.5, "guidance scale, standard form", "ours, as the flagship's beta1", ge=0, le=20)
        spread: float = option(0.0, "the scale is drawn from scale +- spread", "ours", ge=0)
        weak: float = option(0.25, "a_weak, scale of the fake's low-rank branch on the real side", "ours", ge=0, le=1)
        network: Literal["pruned", "unpruned"] = option("pruned", "which network is guided: the fake's own", "ours")

    def queries(self) -> tuple[Query, Query]:
        o = self.options
        return Query(o.network, "text", o.weak), Query(o.network, "null", o.weak)

    def needs(self) -> Sequence[Query]:
        o = self.options
        # v(0) has the weight 1 - s: at a fixed s = 1 it is not worth an evaluation
        return self.queries()[:1] if (o.scale, o.spread) == (1, 0) else self.queries()

    def compose(self, v: Mapping[Query, Tensor], rng: Draws) -> Tensor:
        o = self.options
        text, null = self.queries()
        scale = rng.shared_uniform(o.scale - o.spread, o.scale + o.spread)
        return guided(v[text], v.get(null, v[text]), scale)
