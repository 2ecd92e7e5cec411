"""ICMD / VDMini (arXiv:2411.18375): prune what makes content, keep what makes motion, recover each by its own loss.

    importance^i = (1-w) C^i / C + w M^i / M
    C^i = E || mean_f d_f ||^2,  M^i = E || d_f - mean_f d_f ||^2,   d = x_t - t v^{skip-i} - x0,  C, M: nothing skipped
    L_student = task + .1 L_ICD + L_gen,   L_ICD = mean over surviving blocks of || h_student - h_original ||^2
    L_head    = E softplus(-D(y_t)) + E softplus(D(x_t))

The paper scores a block by the FVD of clips made without it, finds shallow blocks to carry content and deep ones
motion, and prunes content. Here (ours) the x0 error without block i is split into what is common to all frames and
what differs between them. L_ICD compares hidden states frame by frame; the adversarial loss has a spatial and a
temporal head on hidden states of the noised clip; given frames are in none of the losses. Training times are shifted
and kept between .02 and .98 (ours). The paper prints an unbounded hinge inside -log; softplus stands for it. Known to
us from notes about the paper; the port to a transformer is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from flc.api import (
    Batch,
    Betas,
    Budget,
    Draws,
    Loss,
    Nets,
    Optim,
    PrunableModel,
    PrunePlan,
    Pruner,
    RecoveryTrainer,
    Role,
    Sample,
    option,
)  # fmt: skip
from flc.api import Options as Base
from flc.flow import noised, shifted, x0_from_velocity
from flc.losses import flow_matching, gan_discriminator, gan_generator, masked_mean
from flc_baselines.heads import Depths, Heads, SpatialHead, TemporalHead, told_by


def content_and_motion(error: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) each: mean square of an error's (B, C, F, H, W) mean over free frames, and of its deviations from it."""
    common = (error * free).sum(2, keepdim=True) / free.sum(2, keepdim=True).clamp(min=1)
    return masked_mean(common.expand_as(error).pow(2), free), masked_mean((error - common).pow(2), free)


class IcmdPruner(Pruner):
    class Options(Base):
        samples: int = option(256, "noised clips that every variant is measured on", "ours", "clips", ge=1)
        motion: float = option(0.75, "weight w of motion against content", "ours; the paper keeps motion", ge=0, le=1)

    def plan(self, model: PrunableModel, batches: Callable[[int], Iterator[Sample]], budget: Budget) -> PrunePlan:
        w, sums = self.options.motion, dict[tuple[str, int] | None, Tensor]()
        for s in batches(self.options.samples):
            x_t, free = noised(s.x0, s.x1, s.t), s.cond.free(s.x0)
            for skipped, v in model.skip_each(s):
                parts = torch.stack(content_and_motion(x0_from_velocity(x_t, v, s.t) - s.x0, free)).double().sum(1)
                sums[skipped] = sums.get(skipped, 0) + parts.cpu()
        content, motion = sums[None].tolist()
        whole = sums[None].clamp(min=1e-12)  # clips of one latent frame have no motion
        shares = {k: (v / whole).tolist() for k, v in sums.items()}
        scores = {
            s: [(1 - w) * shares[s, i][0] + w * shares[s, i][1] for i in range(len(weights))]
            for s, weights in model.weights.items()
        }
        details = {
            "content": {s: [shares[s, i][0] for i in range(len(v))] for s, v in scores.items()},
            "motion": {s: [shares[s, i][1] for i in range(len(v))] for s, v in scores.items()},
            "baseline": {"content": content / self.options.samples, "motion": motion / self.options.samples},
        }
        return PrunePlan(budget.select(scores), scores, details)


class IcmdRecovery(RecoveryTrainer):
    zero = (3,)  # under 1 and 2 deepspeed 0.19.8 fails in its gradient buckets

    class Options(Base):
        lr: float = option(1e-5, "learning rate of student and heads", "ours", gt=0)
        matrices: float = option(
            0.0, "Muon's rate for the blocks' weight matrices, in AdamW's place; 0: AdamW for all", "ours", ge=0
        )
        distil: float = option(0.1, "weight of L_ICD", "paper, by notes about it", ge=0)
        adversarial: float = option(1.0, "weight of L_gen", "paper, by notes about it", ge=0)
        depths: Depths = option((0.5, 1.0), "shares of the original's depth that the heads look at", "ours")
        shift: float = option(3.0, "timestep shift of the training times", "ours", gt=0)
        betas: Betas = option((0.9, 0.999), "Adam's betas", "ours")
        clip: float = option(1.0, "largest gradient norm", "ours", gt=0)
        warmup: int = option(20, "iterations of linear warm-up", "ours", ge=0)
        ema: float = option(
            0.99, "decay of the averaged weights handed on, at most n / (n + 10) after n updates", "ours", ge=0, lt=1
        )

        def unused(self) -> tuple[str, ...]:
            return ("depths",) * (not self.adversarial)

    def roles(self) -> Mapping[str, Role]:
        o = self.options
        # no decay: blocks that are still to go get no gradient and stay as they are
        optim = Optim(o.lr, o.betas, 0.0, o.clip, o.warmup)
        roles = {
            "student": Role("full", self.setting.full, replace(optim, matrices=o.matrices), ema=o.ema),
            "original": Role("frozen", self.setting.full, passes=True),
        }
        if o.adversarial:
            head = partial(Heads, depths=len(o.depths), kinds=(SpatialHead, TemporalHead))
            roles["head"] = Role("head", optim=optim, head=head, depths=o.depths)
        return roles

    def pruned_iterations(self) -> float:
        return self.setting.iterations

    def phases(self, step: int) -> tuple[str, ...]:
        return ("student", "head") if self.options.adversarial else ("student",)

    def surviving(self) -> tuple[list[float], list[float]]:
        """After which shares of depth the surviving blocks end: in the pruned network, and in the original."""
        assert self.setting.pruned.kept is not None and self.setting.full.kept is not None
        full = [(stack, i) for stack, blocks in self.setting.full.kept.items() for i in blocks]
        kept = [pair for pair in full if pair[1] in self.setting.pruned.kept[pair[0]]]
        mine = [(k + 1) / len(kept) for k in range(len(kept))]
        return mine, [(k + 1) / len(full) for k, pair in enumerate(full) if pair in kept]

    def times(self, x: Tensor, rng: Draws) -> Tensor:
        return shifted(rng.uniform(len(x)), self.options.shift).clamp(0.02, 0.98).to(x.device)

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        o, x0, cond = self.options, batch.x0, batch.cond
        x1, t, free = rng.normal(x0), self.times(x0, rng), cond.free(x0)
        x_t = cond.clamp(noised(x0, x1, t))
        with torch.set_grad_enabled(phase == "student"):
            v = nets["student"](x_t, t, cond, self.setting.pruned)
            x = cond.clamp(x0_from_velocity(x_t, v, t))
        again, t_again = rng.normal(x0), self.times(x0, rng)
        if phase == "head":
            real, fake = (self.logits(y, again, t_again, nets, batch) for y in (x0, x))
            return Loss(gan_discriminator(real, fake, told_by(free)))
        task, distil = flow_matching(v, x0, x1, free), self.feature_distance(x_t, t, nets, batch)
        value, metrics = task + o.distil * distil, {"task": float(task.detach()), "icd": float(distil.detach())}
        if o.adversarial:
            fooled = gan_generator(self.logits(x, again, t_again, nets, batch), told_by(free))
            value, metrics["gan"] = value + o.adversarial * fooled, float(fooled.detach())
        return Loss(value, metrics)

    def logits(self, x: Tensor, noise: Tensor, t: Tensor, nets: Nets, batch: Batch) -> Tensor:
        x_t = batch.cond.clamp(noised(x, noise, t))
        return nets.head("head")(nets["original"].features(x_t, t, batch.cond, self.options.depths))

    def feature_distance(self, x_t: Tensor, t: Tensor, nets: Nets, batch: Batch) -> Tensor:
        here, there = self.surviving()
        mine = nets["student"].features(x_t, t, batch.cond, here, self.setting.pruned)
        with torch.no_grad():
            theirs = nets["original"].features(x_t, t, batch.cond, there)
        free = batch.cond.free(x_t)[:, 0]  # (B, F, 1, 1)
        pairs = zip(mine, theirs, strict=True)
        return torch.stack([masked_mean((a.float() - b.float()).pow(2), free).mean() for a, b in pairs]).mean()
