"""CoDMD (arXiv:2606.21982): distribution matching, and how samples and frames relate to one another.

    L_G = distribution matching (`flc.matching`) + w [ KL_samples + KL_frames ]
    KL  = mean_i KL( softmax_j cos(y_i, y_j) / tau || softmax_j cos(x_i, x_j) / tau ),   y = x + x0_real - x0_fake

The family's gradient treats every coordinate by itself; the relation matrices compare pairs: clips of the batch, and
latent frames of each clip, without the given ones. Clips are compared within what a rank takes at once, and a row of
two has nothing to compare: with fewer than three KL_samples is 0. Only the abstract could be read: it says that the
score estimates at hand are reused and that relation matrices across samples and frames are matched; y (where the
family's gradient points), the softmax, tau and w are ours. Where fake and real agree, y = x and the term has no
gradient.
"""

from __future__ import annotations

import torch

from flc.api import Batch, Draws, Loss, Nets, option
from flc.flow import noised, x0_from_velocity
from flc.losses import distribution_matching, relation_divergence
from flc.matching import DistributionMatching, MatchingOptions


class CodmdDistiller(DistributionMatching):
    compares = 3

    class Options(MatchingOptions):
        lr: float = option(5e-7, "generator's learning rate", "ours, that of dmd here, which it adds to", gt=0)
        relation: float = option(0.1, "weight w of the relation terms", "ours", ge=0)
        temperature: float = option(0.1, "tau of the relation matrices", "ours", gt=0)

        def unused(self) -> tuple[str, ...]:
            return (*super().unused(), *("temperature",) * (not self.relation))

    def generator_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        o, x = self.options, self.generate(nets, batch, rng)
        t, cond, free = self.times(x, rng), batch.cond, batch.cond.free(x)
        with torch.no_grad():
            x_t = cond.clamp(noised(x, rng.normal(x), t))
            v_real, v_fake = nets.teacher(x_t, t, cond), nets["fake"](x_t, t, cond)
            y = x + (x0_from_velocity(x_t, v_real, t) - x0_from_velocity(x_t, v_fake, t)) * free
        value, size = distribution_matching(x, x_t, t, v_fake, v_real, free, o.normalise)
        metrics = {"grad": float(size.mean())}
        if o.relation:
            made, aim = x * free, y * free
            samples = relation_divergence(made.flatten(1), aim.flatten(1), o.temperature)
            each, goal = (z.transpose(1, 2).flatten(2) for z in (made, aim))
            frames = relation_divergence(each, goal, o.temperature, free[:, 0, :, 0, 0])
            value = value + o.relation * (samples + frames)
            metrics |= {"samples": float(samples.detach()), "frames": float(frames.detach())}
        return Loss(value, metrics)
