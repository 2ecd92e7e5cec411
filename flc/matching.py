"""Distribution matching: what the distillers of this family share.

    grad_phi L = -E [ (t v_fake(x_t, t) - t v_real(x_t, t)) dG_phi / dphi ] = E [ (x0_fake - x0_real) dG_phi / dphi ]
    L_fake     = E || v_fake(x_t, t) - (x1 - sg(x)) ||^2

G_phi is the few-step generator, x its output, x_t the output noised again at t; v_real the composed velocity of the
frozen teacher (`--teacher`), v_fake a network that follows G's distribution by flow matching on G's outputs (DMD,
arXiv:2311.18828, for diffusion; DMD2, arXiv:2405.14867, without regression loss and with two time scales).

An iteration is one fake update; the generator moves every `ratio`-th. The rollout carries the gradient of one step,
drawn uniformly, the same on every rank (Self-Forcing, arXiv:2506.08009). With `exits=sample` (ours) each sample draws
its own, stratified over the global batch: every update sees all steps of the schedule, where in turn each step is
corrected by few updates and spoilt by those between. With few samples a rank it costs more steps without gradient,
as all ranks take as many.

A method of the family overrides `generator_loss` or `roles`, adds its own roles, and says in its own file what its
paper gives; the defaults here are Self-Forcing's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ValidationInfo, field_validator

from flc.api import Batch, Betas, Draws, Loss, Nets, Optim, Role, StepDistiller, View, option
from flc.api import Options as Base
from flc.flow import noised, shifted
from flc.losses import distribution_matching, flow_matching, masked_mean
from flc.rollout import rollout

if TYPE_CHECKING:
    from torch import Tensor


class MatchingOptions(Base):
    """What every distiller by distribution matching can be set to; a subclass may change defaults and add its own."""

    lr: float = option(2e-6, "generator's learning rate", "ours, Self-Forcing's", gt=0)
    fake_lr: float | None = option(None, "fake's learning rate; default lr / 5", "ours, Self-Forcing's ratio", gt=0)
    matrices: float = option(
        0.0, "Muon's rate for the generator's block matrices, in AdamW's place; 0: AdamW for all", "ours", ge=0
    )
    fake_matrices: float = option(0.0, "Muon's rate for a full fake's; 0: AdamW for all", "ours", ge=0)
    ratio: int = option(5, "fake updates per generator update", "ours, Self-Forcing's", ge=1)
    fake_warmup: int = option(0, "iterations before the generator moves at all", "ours", ge=0)
    betas: Betas = option((0.0, 0.999), "Adam's betas, all networks", "ours, Self-Forcing's")
    weight_decay: float = option(0.01, "AdamW's, all networks", "ours, Self-Forcing's", ge=0)
    clip: float = option(10.0, "largest gradient norm, all networks", "ours, Self-Forcing's", gt=0)
    ema: float = option(
        0.99,
        "decay of the generator's averaged weights, which are handed on; at most n / (n + 10) after n updates",
        "ours, Self-Forcing's (there from update 200); the ramp is ours",
        ge=0,
        lt=1,
    )
    sampler: Literal["sde", "ode"] = option(
        "sde", "how the student moves: x0-then-renoise, or Euler", "ours, Self-Forcing has sde"
    )
    exits: Literal["batch", "sample"] = option(
        "batch", "one exit step for a batch, or one for each sample", "ours, Self-Forcing's"
    )
    shift: float | None = option(None, "shift of the few-step schedule; default the model's own", "ours", gt=0)
    time_shift: float = option(5.0, "shift of the times at which scores are compared", "ours, Self-Forcing's", gt=0)
    time_min: float = option(0.02, "smallest such time", "ours, Self-Forcing's", gt=0, lt=1)
    time_max: float = option(0.98, "largest such time", "ours, Self-Forcing's", gt=0, le=1)
    normalise: bool = option(True, "divide the gradient by mean |x - x0_real| of each sample", "ours, DMD's")
    fake: Literal["full", "lora"] = option("full", "fake as a copy, or a LoRA on the frozen teacher", "ours")
    rank: int = option(32, "rank of a LoRA fake", "ours", ge=1)

    def unused(self) -> tuple[str, ...]:
        return ("rank",) if self.fake == "full" else ("fake_matrices",)

    @field_validator("time_max")
    @classmethod
    def _not_before_time_min(cls, time_max: float, others: ValidationInfo) -> float:
        if time_max < others.data.get("time_min", 0):
            raise ValueError(f"should be no less than time_min, {others.data['time_min']}")
        return time_max


class DistributionMatching(StepDistiller):
    """A few-step generator whose samples' score is drawn to the teacher's (Eq 8), with a fake network trained on them.

    Roles: `student`, the generator, and `fake`. A subclass adds terms to `loss` or roles of its own; velocities and
    latents are (B, C, F, H, W).
    """

    Options: ClassVar[Any] = MatchingOptions

    def sampler(self) -> Literal["sde", "ode"]:
        return self.options.sampler

    def shift(self) -> float | None:
        return self.options.shift

    def optim(self, lr: float, matrices: float = 0.0) -> Optim:
        o = self.options
        return Optim(lr, betas=o.betas, weight_decay=o.weight_decay, clip=o.clip, matrices=matrices)

    def roles(self) -> Mapping[str, Role]:
        """Student and fake; both start from the pruned network."""
        o = self.options
        start = self.fake_start()
        view = start if o.fake == "full" else View(start.kept, adapter=1.0)
        return {
            "student": Role("full", self.setting.pruned, self.optim(o.lr, o.matrices), ema=o.ema),
            "fake": Role(o.fake, view, self.optim(o.fake_lr or o.lr / 5, o.fake_matrices), rank=o.rank),
        }

    def fake_start(self) -> View:
        return self.setting.pruned

    def phases(self, step: int) -> tuple[str, ...]:
        o = self.options
        moves = step >= o.fake_warmup and (step - o.fake_warmup) % o.ratio == 0
        return ("student", "fake") if moves else ("fake",)

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        return self.generator_loss(nets, batch, rng) if phase == "student" else self.fake_loss(nets, batch, rng)

    def generate(self, nets: Nets, batch: Batch, rng: Draws) -> Tensor:
        """The generator's output for the batch's conditions, from fresh noise, at a drawn exit step."""
        schedule, noise = self.setting.schedule, rng.normal(batch.x0)
        exits: int | Tensor
        if self.options.exits == "sample":
            exits = (rng.uniform(len(noise)) * schedule.steps).long()
        else:
            exits = rng.shared_integer(schedule.steps)
        return rollout(nets["student"], noise, batch.cond, schedule.sigmas, exits, schedule.sampler, rng)

    @torch.no_grad()
    def sample(self, nets: Nets, batch: Batch, rng: Draws) -> Tensor:
        """`generate` for networks that learn from the generator's clips and send it nothing back."""
        return self.generate(nets, batch, rng)

    def times(self, x: Tensor, rng: Draws) -> Tensor:
        o = self.options
        return shifted(rng.uniform(len(x)), o.time_shift).clamp(o.time_min, o.time_max).to(x.device)

    def generator_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        return self.matching_loss(self.generate(nets, batch, rng), nets, batch, rng)

    def matching_loss(self, x: Tensor, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        """The surrogate of the family's gradient for the generator's output x."""
        t, cond, free = self.times(x, rng), batch.cond, batch.cond.free(x)
        with torch.no_grad():
            x_t = cond.clamp(noised(x, rng.normal(x), t))
            v_real = nets.teacher(x_t, t, cond)
            v_fake = nets["fake"](x_t, t, cond)
        value, size = distribution_matching(x, x_t, t, v_fake, v_real, free, self.options.normalise)
        spread = masked_mean((x.detach() - masked_mean(x.detach(), free).view(-1, 1, 1, 1, 1)).pow(2), free)
        return Loss(value, {"grad": float(size.mean()), "latent_std": float(spread.mean().sqrt())})

    def fake_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        x = self.sample(nets, batch, rng)
        t, cond, free = self.times(x, rng), batch.cond, batch.cond.free(x)
        x1 = rng.normal(x)
        x_t = cond.clamp(noised(x, x1, t))
        return Loss(flow_matching(nets["fake"](x_t, t, cond), x, x1, free))
