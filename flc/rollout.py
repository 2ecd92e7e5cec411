"""Few-step rollout of a generator, with one step that carries the gradient (Self-Forcing's exit step)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from flc.flow import noised, x0_from_velocity

if TYPE_CHECKING:
    from flc.api import Draws, Net
    from flc.models.condition import Condition


def step(x: Tensor, v: Tensor, sigma: float, sigma_next: float, sampler: Literal["sde", "ode"], draws: Draws) -> Tensor:
    """x at sigma_next. sde: x0-then-renoise, (1-s') x0_hat + s' eps with fresh eps; ode: Euler."""
    if sampler == "ode":
        return x + (sigma_next - sigma) * v
    t = x.new_full((x.shape[0],), sigma)
    x0 = x0_from_velocity(x, v, t)
    return noised(x0, draws.normal(x), x.new_full((x.shape[0],), sigma_next))


def rollout(
    net: Net,
    noise: Tensor,
    cond: Condition,
    sigmas: Sequence[float],
    exit_index: int,
    sampler: Literal["sde", "ode"],
    draws: Draws,
) -> Tensor:
    """x0_hat of step `exit_index` of the few-step sampler that starts at `noise` (B, C, F, H, W).

    `sigmas` has one entry per step and a final 0. Earlier steps run without gradient; the exit step runs
    with it when gradients are enabled. Given frames are clean in the result.
    """
    x = noise
    for i in range(exit_index):
        with torch.no_grad():
            v = net(x, x.new_full((x.shape[0],), sigmas[i]), cond)
            x = step(x, v, sigmas[i], sigmas[i + 1], sampler, draws)
    t = x.new_full((x.shape[0],), sigmas[exit_index])
    return cond.clamp(x0_from_velocity(x, net(x, t, cond), t))
