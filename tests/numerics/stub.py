"""Networks as plain functions of (x, t), for objectives whose closed form is known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from flc.api import Batch, Kind, Setting, View
from flc.draws import StepDraws
from flc.flow import few_step_grid, per_sample
from flc.models.condition import Condition
from flc.registry import create

Velocity = Callable[[Tensor, Tensor], Tensor]


def towards(clip: Tensor) -> Velocity:
    """The velocity whose x0_hat = x_t - t v is `clip` wherever x_t is."""
    return lambda x, t: (x - clip) / per_sample(t, x)


class Known(StepDraws):
    """All noise of a call is `noise`, and all times before their shift are `times`, whoever draws first."""

    def __init__(self, noise: Tensor, times: Tensor) -> None:
        super().__init__(0, "known", 0)
        self.noise, self.times = noise, times

    def normal(self, like: Tensor) -> Tensor:
        return self.noise

    def uniform(self, batch: int) -> Tensor:
        return self.times


class Field:
    """`flc.api.Net`. Its hidden states are x itself, frame by frame, at each depth."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity

    def __call__(self, x: Tensor, t: Tensor, cond: Condition, view: View | None = None) -> Tensor:
        return self.velocity(cond.clamp(x), t) * cond.free(x)

    def features(self, x: Tensor, t: Tensor, cond: Condition, depths: Any, view: View | None = None) -> list[Tensor]:
        return [depth * x.movedim(1, -1).flatten(2, 3) for depth in depths]


class Fields:
    """`flc.api.Nets`."""

    def __init__(self, real: Velocity, head: Any = None, **roles: Velocity) -> None:
        self.real, self._head, self.roles = real, head, roles

    def __getitem__(self, role: str) -> Field:
        return Field(self.roles[role])

    def head(self, role: str) -> Any:
        return self._head

    @torch.no_grad()
    def teacher(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return Field(self.real)(x, t, cond)


def batch_of(x0: Tensor, given: Tensor | None = None) -> Batch:
    text = x0.new_zeros(len(x0), 1, 1)
    return Batch(x0, Condition(text, text[:1], None if given is None else x0[:, :, :1], given))


def bound(name: str, options: dict[str, Any], shift: float = 3.0, steps: int = 4, kind: Kind = "distiller") -> Any:
    """A distiller, or a recovery, of a network of three blocks, two of them kept, with a schedule of `steps` steps."""
    sigmas = (*few_step_grid(steps, shift), 0.0)
    schedule = SimpleNamespace(shift=shift, steps=steps, sampler="sde", sigmas=sigmas)
    full, pruned = View({"blocks": (0, 1, 2)}), View({"blocks": (0, 2)})
    return create(kind, name, options).bind(Setting(pruned, full, steps, 100, schedule))
