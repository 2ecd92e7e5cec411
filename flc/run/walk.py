"""The folder's scheduler walked once before a run: what the table rests on after all training, and few-step schedules
on before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from typing import Any, cast

import torch
from torch import Tensor

from flc.errors import UserError
from flc.models.condition import Condition
from flc.run.job import Job
from flc.sample import generators_for, sample
from flc.schedule import Walk

SHAPE = (1, 16, 1, 8, 8)
"""Of the latents that are walked: a scheduler does the same to each number, and these tell the noise's share to 2 %."""
ASTRAY = 0.2
"""Of the noise's standard deviation. diffusers' schedulers of flow matching stay within .07 in 2 to 100 steps, the
widest those that draw noise at each; ones of diffusion by noise are .4 and more away somewhere."""
WAY_OUT = "give the config that the model is published with"


@dataclass
class OneClip:
    """The velocity of a distribution that is the clip x0 alone: (x - x0) / t. Along it a walk of flow matching is at
    (1 - t) x0 + t x1 with standard noise x1 whenever it asks, and at x0 in the end, however few its steps are.

    `astray`: how far from 1 the standard deviation of x1 was at the worst."""

    x0: Tensor
    astray: float = 0.0

    def __call__(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if not 0 < float(t.min()) <= float(t.max()) <= 1:
            self.astray = inf  # of no network that was trained by flow matching may such a time be asked
        t = t.view(-1, 1, 1, 1, 1)
        self.note(((x - (1 - t) * self.x0) / t).std())
        return (x - self.x0) / t

    def note(self, deviation: Tensor) -> None:
        found = abs(float(deviation) - 1)
        self.astray = max(self.astray, found) if found == found else inf  # NaN


def check_scheduler(job: Job, planned: Collection[str]) -> None:
    """`UserError` where the folder's scheduler cannot be stepped as the stock pipeline does it, or does not walk by
    flow matching: in the steps that a student's folder names, or in as many as the table's rows of the teacher take."""
    own, o = job.adapter.notes.get("steps"), job.recipe.evaluate
    counts = {int(own or o.teacher_steps)}
    if own is None and "evaluate" in planned and any(row.startswith("teacher-few") for row in job.rows):
        counts.add(job.recipe.steps)
    place = job.model_folder / "scheduler" / "scheduler_config.json"
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    cond = Condition(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    for steps in sorted(counts):
        scheduler, clip = job.adapter.teacher_scheduler(), OneClip(x0)
        kind, net = type(scheduler).__name__, cast(Any, clip)
        try:
            end = sample(net, Walk(scheduler, steps, job.adapter.grid(steps)), 1.0, noise, cond, generators_for([0]))
        except Exception as error:  # a stranger's config may be wrong in any way
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{place}: {kind} does not walk {steps} steps ({said}): {WAY_OUT}") from error
        clip.note(1 + (end - x0).std())
        if clip.astray > ASTRAY:
            raise UserError(
                f"{place}: {kind}, configured so, does not follow a velocity from noise to clip, and flc compresses "
                f"models of flow matching: {WAY_OUT}"
            )
