"""Sampling with a diffusers scheduler, batched, as the stock pipelines do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flc.api import Net
from flc.flow import guided
from flc.models.condition import Condition, join
from flc.schedule import Walk


@torch.no_grad()
def sample(
    net: Net,
    walk: Walk,
    guidance: float,
    noise: Tensor,
    cond: Condition,
    generators: list[torch.Generator],
    on_step: Callable[[], Any] = lambda: None,
) -> Tensor:
    """Latents (B, C, F, H, W) from `noise`, with standard-form guidance (1 or less: none, one evaluation).

    A stochastic scheduler draws each clip's further noise from a generator of its own, so that a clip does not
    depend on its batch: from the one that drew its first (`noise_for`), which has moved on. One seeded anew would
    draw the first noise again, and the first step would be Euler's. The stock pipelines draw from torch's global
    generator: called without one of its own after `torch.manual_seed(seed)`, a single clip on a CPU is the same.
    """
    scheduler = walk.scheduler
    extra: dict[str, Any] = {"generator": generators} if scheduler.config.get("stochastic_sampling") else {}
    walk.begin(noise.device)
    x, held = cond.begun(noise), int(cond.trace > 0)
    for time in scheduler.timesteps:
        t = (time / scheduler.config.num_train_timesteps).expand(x.shape[0]).to(torch.float32)
        if guidance > 1:
            both = join([cond, cond.without_text()])
            text, null = net(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            v = guided(text, null, guidance)
        else:
            v = net(x, t, cond)
        moved = scheduler.step(v[:, :, held:], time, x[:, :, held:], return_dict=False, **extra)[0]
        x = torch.cat([x[:, :, :held], moved], dim=2)
        on_step()
    return cond.clamp(x)


def generators_for(seeds: list[int]) -> list[torch.Generator]:
    """One a clip, on the CPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise_for(shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
    """(len(generators), *shape) standard normal, each clip from its own generator, as a pipeline draws it."""
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])
