"""Losses as pure functions. All average over the free elements of each sample, then over samples.

`free` is 1 where an element is generated and 0 where it was given (B, 1, F, 1, 1): a given first frame is
left out of every loss and every normaliser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from flc.flow import x0_from_velocity

if TYPE_CHECKING:
    from flc.api import Sample

#: Added to the per-sample normaliser of distribution matching; latents have unit variance.
EPSILON = 1e-6


def masked_mean(x: Tensor, free: Tensor) -> Tensor:
    """(B,): mean of each sample over its free elements."""
    weight = free.expand_as(x)
    return (x * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)


def flow_matching(v: Tensor, x0: Tensor, x1: Tensor, free: Tensor) -> Tensor:
    """E || v - (x1 - x0) ||^2, per element. The paper's Eq 5 prints the target with the other sign; Eq 4 and
    Eq 8 hold for this one."""
    return masked_mean((v - (x1 - x0)).pow(2), free).mean()


def flow_error(sample: Sample, v: Tensor) -> Tensor:
    """(B,): the same of each clip of a sample."""
    return masked_mean((v - (sample.x1 - sample.x0)).pow(2), sample.cond.free(sample.x0))


def velocity_matching(v: Tensor, target: Tensor, free: Tensor) -> Tensor:
    """E || v - sg(target) ||^2, per element (FastLightGen Eq 6)."""
    return masked_mean((v - target.detach()).pow(2), free).mean()


def tweedie_error(x_t: Tensor, v: Tensor, t: Tensor, x0: Tensor, free: Tensor) -> Tensor:
    """(B,): || x_t - t v - x0 ||^2 per element (FastLightGen Eq 4)."""
    return masked_mean((x0_from_velocity(x_t, v, t) - x0).pow(2), free)


def distribution_matching(
    x: Tensor, x_t: Tensor, t: Tensor, v_fake: Tensor, v_real: Tensor, free: Tensor, normalise: bool
) -> tuple[Tensor, Tensor]:
    """Surrogate whose gradient in x is the distribution-matching direction (FastLightGen Eq 8, DMD).

    grad = x0_fake - x0_real = -(t v_fake - t v_real), divided by D = mean |x - x0_real| of each sample when
    `normalise` (DMD's; Eq 8 has none). The surrogate is 1/2 || x - sg(x - grad) ||^2 summed over a sample's
    free elements and divided by their number, so that d surrogate / d x = grad / (B n), in float32.

    Returns the scalar and the per-sample mean |grad| (B,).
    """
    x, v_fake, v_real = x.float(), v_fake.detach().float(), v_real.detach().float()
    real = x0_from_velocity(x_t.float(), v_real, t)
    grad = (x0_from_velocity(x_t.float(), v_fake, t) - real) * free
    if normalise:
        scale = masked_mean((x.detach() - real).abs(), free) + EPSILON
        grad = grad / scale.view(-1, *[1] * (x.ndim - 1))
    surrogate = 0.5 * masked_mean((x - (x.detach() - grad)).pow(2), free).mean()
    return surrogate, masked_mean(grad.abs(), free)


def pseudo_huber(x: Tensor, y: Tensor, free: Tensor, c: float = 1e-3) -> Tensor:
    """sqrt(d^2 + c^2) - c over elements (LCM; c = 1e-3 is FastVideo's)."""
    d = x - y
    return masked_mean(torch.sqrt(d.pow(2) + c * c) - c, free).mean()


def gan_generator(fake: Tensor, free: Tensor) -> Tensor:
    """Non-saturating loss of a generator, softplus(-D(fake)), mean over the logits of free frames; logits and what
    `free` (1 or 0) spreads over are (B, heads, F)."""
    return masked_mean(softplus(-fake), free).mean()


def gan_discriminator(real: Tensor, fake: Tensor, free: Tensor) -> Tensor:
    """softplus(-D(real)) + softplus(D(fake)), mean over the logits of free frames, as above; 2 log 2 where D cannot
    tell."""
    return masked_mean(softplus(-real) + softplus(fake), free).mean()


def log_relation(items: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """Log of the relation matrix (..., n, n) of n items (..., n, d): row i is the softmax over j != i of
    cos(x_i, x_j) / temperature, where only j of `counted` (..., n) is one of them."""
    unit = normalize(items.float(), dim=-1)
    similar = unit @ unit.transpose(-1, -2) / temperature
    itself = torch.eye(items.shape[-2], dtype=torch.bool, device=items.device)
    absent = itself if counted is None else itself | (counted == 0).unsqueeze(-2)
    return similar.masked_fill(absent, -1e9).log_softmax(-1)  # -inf would make 0 * inf in a divergence


def relation_divergence(x: Tensor, target: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """KL between relation matrices of n items: x (..., n, d) against sg(target), mean over rows; of the items in
    `counted` (..., n) alone, where that is given.

    Zero, and so is its gradient, where both relate alike.
    """
    reference = log_relation(target.detach(), temperature, counted)
    rows = (reference.exp() * (reference - log_relation(x, temperature, counted))).sum(-1)
    return rows.mean() if counted is None else (rows * counted).sum() / counted.sum().clamp(min=1)
