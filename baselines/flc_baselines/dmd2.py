"""DMD2 (arXiv:2405.14867): distribution matching without regression loss, with two time scales and a GAN loss.

    L_G    = distribution matching (`flc.matching`) + w E softplus(-D(x_t))
    L_D    = E softplus(-D(y_t)) + E softplus(D(x_t)),   y a real clip, x the generator's output, both noised at t
    L_fake = flow matching on x

D is a small head on hidden states of the frozen teacher (FastGen's placing; the paper's sits on the fake network), a
spatial and a temporal one at each depth (ours).
Fake and head move every iteration, the generator every `ratio`-th; its inputs are its own rollouts (the paper's
backward simulation). Fake and head of an iteration learn from the same clips, as in the authors' code: the generator
moves before both and not between them.
With `regression` the loss of the first DMD (arXiv:2311.18828) is added: the generator's one-step output against the
teacher's ODE solution from the same noise, in latent space where the paper has LPIPS. Without a pruner this is the
method of the paper (`--keep 1 --recovery none --teacher cfg`). With `gan` = 0 there is no head.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from flc.api import Batch, Draws, Loss, Nets, Role, option
from flc.flow import few_step_grid, noised
from flc.losses import gan_discriminator, gan_generator, masked_mean
from flc.matching import DistributionMatching, MatchingOptions
from flc.rollout import rollout
from flc_baselines.heads import Depths, Heads, SpatialHead, TemporalHead, told_by


class Dmd2Distiller(DistributionMatching):
    class Options(MatchingOptions):
        gan: float = option(0.03, "weight of the GAN loss in the generator's", "ours, FastGen's", ge=0)
        gan_lr: float | None = option(None, "head's learning rate; default lr", "ours", gt=0)
        depths: Depths = option((0.5, 1.0), "shares of the teacher's depth that the heads look at", "ours")
        regression: float = option(0.0, "weight of DMD's regression loss", "DMD2 has none; DMD's is .25", ge=0)
        regression_steps: int = option(8, "Euler steps of the teacher's ODE for it", "ours", ge=1)

        def unused(self) -> tuple[str, ...]:
            head, steps = ("gan_lr", "depths") * (not self.gan), ("regression_steps",) * (not self.regression)
            return (*super().unused(), *head, *steps)

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        #: Clips that the fake's phase made for the head's, by the draws of the iteration, or of a part of its batch.
        self.made: WeakKeyDictionary[Draws, Tensor] = WeakKeyDictionary()

    def roles(self) -> Mapping[str, Role]:
        o, roles = self.options, dict(super().roles())
        if o.gan:
            head = partial(Heads, depths=len(o.depths), kinds=(SpatialHead, TemporalHead))
            roles["teacher"] = Role("frozen", self.setting.full, passes=True)
            roles["head"] = Role("head", optim=self.optim(o.gan_lr or o.lr), head=head, depths=o.depths)
        return roles

    def phases(self, step: int) -> tuple[str, ...]:
        phases = super().phases(step)
        return (*phases, "head") if self.options.gan else phases

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        return self.head_loss(nets, batch, rng) if phase == "head" else super().loss(phase, nets, batch, step, rng)

    def sample(self, nets: Nets, batch: Batch, rng: Draws) -> Tensor:
        x = super().sample(nets, batch, rng)
        if self.options.gan:
            self.made[rng] = x
        return x

    def logits(self, x: Tensor, noise: Tensor, t: Tensor, nets: Nets, batch: Batch) -> Tensor:
        x_t = batch.cond.clamp(noised(x, noise, t))
        return nets.head("head")(nets["teacher"].features(x_t, t, batch.cond, self.options.depths))

    def generator_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        o, x = self.options, self.generate(nets, batch, rng)
        matching = self.matching_loss(x, nets, batch, rng)
        value, metrics = matching.value, dict(matching.metrics)
        if o.gan:
            logits = self.logits(x, rng.normal(x), self.times(x, rng), nets, batch)
            fooled = gan_generator(logits, told_by(batch.cond.free(x)))
            value, metrics["gan"] = value + o.gan * fooled, float(fooled.detach())
        if o.regression:
            distance = self.regression(nets, batch, rng)
            value, metrics["regression"] = value + o.regression * distance, float(distance.detach())
        return Loss(value, metrics)

    def head_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        x = self.made.pop(rng) if rng in self.made else super().sample(nets, batch, rng)
        t = self.times(x, rng)
        real = self.logits(batch.x0, rng.normal(x), t, nets, batch)
        fake = self.logits(x, rng.normal(x), t, nets, batch)
        metrics = {"real": float(real.detach().mean()), "fake": float(fake.detach().mean())}
        return Loss(gan_discriminator(real, fake, told_by(batch.cond.free(x))), metrics)

    def regression(self, nets: Nets, batch: Batch, rng: Draws) -> Tensor:
        """|| G(z) - ODE(z) ||^2, G's output after its first step."""
        schedule, cond, noise = self.setting.schedule, batch.cond, rng.normal(batch.x0)
        grid = [*few_step_grid(self.options.regression_steps, schedule.shift), 0.0]
        solved = cond.begun(noise)
        for now, then in pairwise(grid):
            solved = solved + (then - now) * nets.teacher(solved, noise.new_full((len(noise),), now), cond)
        x = rollout(nets["student"], noise, cond, schedule.sigmas, 0, schedule.sampler, rng)
        return masked_mean((x - cond.clamp(solved)).pow(2), cond.free(x)).mean()
