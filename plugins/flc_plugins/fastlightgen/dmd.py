"""Fine-grained distribution matching (FastLightGen, arXiv:2603.01685, Eq 8), stage III.

    grad_phi L = -E_t [ (t v_fake(x_t, t) - t v_real(x_t, t)) dG_phi / dphi ]

G_phi is the few-step generator, x_t its output noised again at t, v_real the frozen teacher's composed
velocity (`--teacher`), v_fake a network that follows G's distribution by flow matching on G's outputs:

    L_fake = E || v_fake(x_t, t) - (x1 - sg(x)) ||^2

-t (v_fake - v_real) = x0_fake - x0_real. G and v_fake start from v_pruned. An iteration is one fake update;
the generator moves every `ratio`-th. The rollout carries the gradient of one step, drawn uniformly, the same
on every rank (Self-Forcing). What the paper does not give is marked "ours" or by the code it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from flc.api import Batch, Draws, Loss, Nets, Optim, Role, StepDistiller, View, option
from flc.api import Options as Base
from flc.flow import noised, shifted
from flc.losses import distribution_matching, flow_matching, masked_mean
from flc.rollout import rollout


class DmdDistiller(StepDistiller):
    class Options(Base):
        lr: float = option(5e-7, "generator's learning rate", "paper", gt=0)
        fake_lr: float | None = option(None, "fake's learning rate; default lr / 5", "Self-Forcing's ratio", gt=0)
        ratio: int = option(5, "fake updates per generator update", "Self-Forcing", ge=1)
        fake_warmup: int = option(0, "iterations before the generator moves at all", "ours", ge=0)
        betas: tuple[float, float] = option((0.0, 0.999), "Adam's betas, both networks", "Self-Forcing")
        weight_decay: float = option(0.01, "AdamW's, both networks", "Self-Forcing", ge=0)
        clip: float = option(10.0, "largest gradient norm, both networks", "Self-Forcing", gt=0)
        ema: float = option(
            0.99, "decay of the generator's averaged weights, which are handed on", "Self-Forcing", ge=0, lt=1
        )
        sampler: Literal["sde", "ode"] = option(
            "sde", "how the student moves: x0-then-renoise, or Euler", "Self-Forcing; ode ours"
        )
        shift: float | None = option(None, "shift of the few-step schedule; default the model's own", "ours", gt=0)
        time_shift: float = option(5.0, "shift of the times at which scores are compared", "Self-Forcing", gt=0)
        time_min: float = option(0.02, "smallest such time", "Self-Forcing", gt=0, lt=1)
        time_max: float = option(0.98, "largest such time", "Self-Forcing", gt=0, le=1)
        normalise: bool = option(True, "divide the gradient by mean |x - x0_real| of each sample", "DMD; Eq 8 has none")
        fake: Literal["full", "lora"] = option(
            "full", "fake as a copy, or a LoRA on the frozen teacher", "ours; both fit the paper"
        )
        fake_init: Literal["pruned", "unpruned"] = option(
            "pruned", "fake starts from v_pruned or v_unpruned", "paper; Table 9"
        )
        rank: int = option(32, "rank of a LoRA fake", "ours", ge=1)

        @field_validator("betas")
        @classmethod
        def _averages(cls, betas: tuple[float, float]) -> tuple[float, float]:
            if not all(0 <= beta < 1 for beta in betas):
                raise ValueError("both should be at least 0 and less than 1")
            return betas

        @field_validator("time_max")
        @classmethod
        def _after_time_min(cls, time_max: float, others: ValidationInfo) -> float:
            if time_max <= others.data.get("time_min", 0):
                raise ValueError(f"should be greater than time_min, {others.data['time_min']}")
            return time_max

    @property
    def sampler(self) -> Literal["sde", "ode"]:  # type: ignore[override]
        return self.options.sampler

    def shift(self) -> float | None:
        return self.options.shift

    def roles(self) -> Mapping[str, Role]:
        o = self.options
        start = self.setting.pruned if o.fake_init == "pruned" else self.setting.full
        common = {"betas": o.betas, "weight_decay": o.weight_decay, "clip": o.clip}
        generator = Optim(o.lr, **common)
        follower = Optim(o.fake_lr or o.lr / 5, **common)
        view = start if o.fake == "full" else View(start.kept, adapter=1.0)
        return {
            "student": Role("full", self.setting.pruned, generator, ema=o.ema),
            "fake": Role(o.fake, view, follower, rank=o.rank),
        }

    def phases(self, step: int) -> tuple[str, ...]:
        o = self.options
        moves = step >= o.fake_warmup and (step - o.fake_warmup) % o.ratio == 0
        return ("student", "fake") if moves else ("fake",)

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        return self._generator_loss(nets, batch, rng) if phase == "student" else self._fake_loss(nets, batch, rng)

    def generate(self, nets: Nets, batch: Batch, rng: Draws) -> Tensor:
        """The generator's output for the batch's conditions, from fresh noise, at a drawn exit step."""
        schedule = self.setting.schedule
        noise, exit_index = rng.normal(batch.x0), rng.shared_integer(schedule.steps)
        return rollout(nets["student"], noise, batch.cond, schedule.sigmas, exit_index, schedule.sampler, rng)

    def times(self, x: Tensor, rng: Draws) -> Tensor:
        o = self.options
        return shifted(rng.uniform(len(x)), o.time_shift).clamp(o.time_min, o.time_max).to(x.device)

    def _generator_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        x = self.generate(nets, batch, rng)
        t, cond, free = self.times(x, rng), batch.cond, batch.cond.free(x)
        with torch.no_grad():
            x_t = cond.clamp(noised(x, rng.normal(x), t))
            v_real = nets.teacher(x_t, t, cond)
            v_fake = nets["fake"](x_t, t, cond)
        value, size = distribution_matching(x, x_t, t, v_fake, v_real, free, self.options.normalise)
        spread = masked_mean((x.detach() - masked_mean(x.detach(), free).view(-1, 1, 1, 1, 1)).pow(2), free)
        return Loss(value, {"grad": float(size.mean()), "latent_std": float(spread.mean().sqrt())})

    def _fake_loss(self, nets: Nets, batch: Batch, rng: Draws) -> Loss:
        with torch.no_grad():
            x = self.generate(nets, batch, rng)
        t, cond, free = self.times(x, rng), batch.cond, batch.cond.free(x)
        x1 = rng.normal(x)
        x_t = cond.clamp(noised(x, x1, t))
        return Loss(flow_matching(nets["fake"](x_t, t, cond), x, x1, free))
