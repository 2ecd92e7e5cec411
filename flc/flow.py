"""Flow matching's identities, and time laws. Pure functions.

Convention everywhere in flc: t in [0, 1], x_t = (1-t) x0 + t x1, x1 ~ N(0, I), v = x1 - x0 (diffusers').
Tensors are (B, C, F, H, W), times (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """(B,) shaped to broadcast over the other dimensions of `like`."""
    return t.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def noised(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """x_t = (1-t) x0 + t x1."""
    t = per_sample(t, x0)
    return (1 - t) * x0 + t * x1


def x0_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Tweedie's formula for flow matching: x0_hat = x_t - t v."""
    return x_t - per_sample(t, x_t) * v


def x1_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """x1_hat = x_t + (1-t) v."""
    return x_t + (1 - per_sample(t, x_t)) * v


def score_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """grad log p_t(x_t) = -x1_hat / t."""
    return -x1_from_velocity(x_t, v, t) / per_sample(t, x_t)


def shifted(t: Tensor, k: float) -> Tensor:
    """Timestep shift t' = k t / (1 + (k-1) t); k = 1 changes nothing."""
    return k * t / (1 + (k - 1) * t)


def few_step_grid(steps: int, k: float) -> list[float]:
    """Shifted uniform grid of `steps` times from 1 downwards, without the final 0.

    >>> [round(t, 4) for t in few_step_grid(4, 5.0)]
    [1.0, 0.9375, 0.8333, 0.625]
    """
    grid = 1 - torch.arange(steps, dtype=torch.float64) / steps
    return shifted(grid, k).tolist()


def guided(text: Tensor, null: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance in standard form: null + scale (text - null); scale 1 is no guidance."""
    return null + scale * (text - null)
