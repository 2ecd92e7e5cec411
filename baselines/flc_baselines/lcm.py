"""Latent consistency distillation (LCM, arXiv:2310.04378; consistency models, arXiv:2303.01469).

    f(x_t, t) = x_t - t v(x_t, t),   f(x, 0) = x
    x_{n-1}   = x_n + (t_{n-1} - t_n) v_teacher(x_n, t_n)
    L         = sqrt(d^2 + c^2) - c,   d = f_theta(x_n, t_n) - f_target(x_{n-1}, t_{n-1})

x_n is a real clip noised at t_n of a grid of N times under the deployed shift (ours), v_teacher the teacher under
guidance (`--teacher cfg` for the paper's augmented solver), the target a moving average of the student or the student
itself without gradient. f meets its boundary condition by itself under flow matching. The student moves by
x0-then-renoise. N is a multiple of the student's steps k (ours): the sigmas at which the student is sampled are N/k,
2N/k, ... N of the grid, so it is trained at every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from flc.api import Batch, Betas, Draws, Loss, Nets, Optim, Role, StepDistiller, option
from flc.api import Options as Base
from flc.flow import noised, per_sample, shifted, x0_from_velocity
from flc.losses import pseudo_huber


class LcmDistiller(StepDistiller):
    class Options(Base):
        lr: float = option(1e-6, "learning rate", "ours, FastVideo's", gt=0)
        matrices: float = option(
            0.0, "Muon's rate for the blocks' weight matrices, in AdamW's place; 0: AdamW for all", "ours", ge=0
        )
        grid: int = option(
            50, "times N of the solver's grid, rounded up to a multiple of the steps", "ours, FastVideo's", ge=2
        )
        target: Literal["ema", "stop-gradient"] = option("ema", "what the student is compared with", "LCM")
        target_decay: float = option(
            0.95, "decay of the target's moving average, at most n / (n + 10) after n updates", "LCM; the ramp is ours",
            ge=0, lt=1,
        )  # fmt: skip
        c: float = option(1e-3, "pseudo-Huber's c", "ours, FastVideo's", gt=0)
        ema: float = option(
            0.99, "decay of the averaged weights handed on, at most n / (n + 10) after n updates", "ours", ge=0, lt=1
        )
        betas: Betas = option((0.9, 0.999), "Adam's betas", "ours")
        clip: float = option(1.0, "largest gradient norm", "ours", gt=0)
        weight_decay: float = option(0.0, "AdamW's", "ours", ge=0)
        warmup: int = option(20, "iterations of linear warm-up", "ours", ge=0)
        shift: float | None = option(None, "shift of the few-step schedule; default the model's own", "ours", gt=0)

        def unused(self) -> tuple[str, ...]:
            return ("target_decay",) * (self.target == "stop-gradient")

    def shift(self) -> float | None:
        return self.options.shift

    @property
    def times(self) -> int:
        """N."""
        steps = self.setting.steps
        return -(-self.options.grid // steps) * steps

    def roles(self) -> Mapping[str, Role]:
        o = self.options
        optim = Optim(o.lr, o.betas, o.weight_decay, o.clip, o.warmup, o.matrices)
        roles = {"student": Role("full", self.setting.pruned, optim, ema=o.ema)}
        if o.target == "ema":
            roles["target"] = Role("follow", of="student", ema=o.target_decay)
        return roles

    def loss(self, phase: str, nets: Nets, batch: Batch, step: int, rng: Draws) -> Loss:
        o, x0, cond = self.options, batch.x0, batch.cond
        free = cond.free(x0)
        n = (rng.uniform(len(x0)) * self.times).floor() + 1  # 1 to N
        k = self.setting.schedule.shift
        t, before = (shifted(m / self.times, k).to(x0.device) for m in (n, n - 1))
        x_n = cond.clamp(noised(x0, rng.normal(x0), t))
        with torch.no_grad():
            x_before = x_n + per_sample(before - t, x_n) * nets.teacher(x_n, t, cond)
            network = nets["target" if o.target == "ema" else "student"]
            target = x0_from_velocity(x_before, network(x_before, before, cond), before)
        x = x0_from_velocity(x_n, nets["student"](x_n, t, cond), t)
        return Loss(pseudo_huber(x, target, free, o.c))
