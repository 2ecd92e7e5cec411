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
    exits: int | Tensor,
    sampler: Literal["sde", "ode"],
    draws: Draws,
) -> Tensor:
    """x0_hat at the exit step of the few-step sampler that starts at `noise` (B, C, F, H, W).

    `sigmas` has one entry per step and a final 0; `exits` is one index of a step for the batch, or one for each
    sample (B,). Earlier steps run without gradient; the exit step runs with it when gradients are enabled. Given
    frames are clean in the result.
    """
    x = cond.begun(noise)
    each = isinstance(exits, Tensor)
    exit_of = torch.as_tensor(exits).expand(len(x)).to(x.device)
    # ranks, whose samples differ, have to make the same calls (ZeRO-3): all steps, of one sample where none is left
    for i in range(len(sigmas) - 2 if each else int(exits)):
        going = exit_of > i
        rows = going.nonzero()[:, 0] if going.any() else exit_of.new_zeros(1)
        v = torch.zeros_like(x)
        with torch.no_grad():
            v[rows] = net(x[rows], x.new_full((len(rows),), sigmas[i]), cond[rows])
            moved = step(x, v, sigmas[i], sigmas[i + 1], sampler, draws)
        x = torch.where(going.view(-1, 1, 1, 1, 1), moved, x)
    t = x.new_tensor(sigmas)[exit_of]
    return cond.clamp(x0_from_velocity(x, net(x, t, cond), t))
