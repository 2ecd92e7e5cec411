"""Early warnings while training: the loss does not say whether the student is well, so it is looked at.

Every `check_every` iterations and at the end a stage's student is measured, a warning is said where a measure is off,
and the weights of the best look are kept; a stage that ends in a collapse hands those on. What is measured depends on
the stage: `Samples` of a distillation, `Velocities` of a recovery. All thresholds are ours.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from flc.api import Batch, Net, Sample, View
from flc.files import whole, write_text
from flc.flow import noised
from flc.losses import masked_mean
from flc.models.folder import read_tensors
from flc.sample import generators_for, noise_for, sample
from flc.schedule import FewStepSchedule

BEST, RECORD = "best.safetensors", "health.json"
#: Of the latents that are looked at at once, at the most, but one clip's: one of full size fills the network as it is.
NUMBERS = 2**20
WARN = 2.0
"""A ratio to real clips beyond it, either way, is said."""
FLOOR = 1e-3
"""Added to both sides of a ratio: a quarter of an 8-bit level, below what anyone sees."""
RELAPSE = 2.0
"""A recovery that ends so many times as far from the original as it once was has collapsed, where it is also"""
LOST = 0.5
"""this much of the way to where it began: one that learns from clips alone may move away from the original."""
TINY = 1e-30
"""An error of a network without blocks that do nothing."""


class Health(ABC):
    """The watch over one stage. Its record and best weights lie in `folder`, so that a resumed run knows them."""

    collapsed: ClassVar[float]
    """A deviation beyond it, at the last look, makes the stage hand on its best weights, if they are not beyond it."""
    from_start: ClassVar[bool] = False
    """Whether the weights that the stage begins with are looked at, too, and may be its best."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def check(self, student: Net) -> dict[str, float]:
        """What is measured of the student as it is now; the same at every call for the same weights."""

    @abstractmethod
    def deviation(self, found: dict[str, float]) -> float:
        """How bad that is, as a factor."""

    @abstractmethod
    def warning(self, found: dict[str, float]) -> str | None:
        """What is to be said of it."""

    def has_collapsed(self, found: dict[str, float]) -> bool:
        return not self.deviation(found) <= self.collapsed  # a deviation that is no number has, too

    def record(self) -> dict[str, Any]:
        """The first, the best and the last look."""
        path = self.folder / RECORD
        return json.loads(path.read_text()) if path.exists() else {"step": -1, "deviation": math.inf, "last": {}}

    def is_best(self, found: dict[str, float]) -> bool:
        return self.deviation(found) < self.record()["deviation"]

    def remember(self, step: int, found: dict[str, float], state: dict[str, Tensor] | None) -> None:
        """Note a look; `state` are its weights when it was the best. Repeating a step changes nothing."""
        record = {"first": found} | self.record() | {"last": found}
        if state is not None:
            with whole(self.folder / BEST) as best:
                save_file({n: v.contiguous() for n, v in state.items()}, best)
            record |= {"step": step, "deviation": self.deviation(found)}
        write_text(self.folder / RECORD, json.dumps(record))

    def rescue(self) -> tuple[int, dict[str, Tensor]] | None:
        """The best weights and their step, when the last look says the run collapsed and an earlier one did not."""
        record = self.record()
        if not record["last"] or record["deviation"] > self.collapsed or not self.has_collapsed(record["last"]):
            return None
        return record["step"], read_tensors(self.folder / BEST)


# -- distillation -----------------------------------------------------------------------------------------------


def measure(video: np.ndarray) -> dict[str, float]:
    """saturation, motion, sharpness, diversity of clips (B, F, H, W, 3) in [0, 1]; each a mean absolute size."""
    motion = np.abs(np.diff(video, axis=1)).mean() if video.shape[1] > 1 else 0.0
    edges = np.abs(np.diff(video, axis=2)).mean() + np.abs(np.diff(video, axis=3)).mean()
    others = np.abs(video - np.roll(video, 1, axis=0)).mean() if len(video) > 1 else 0.0
    saturation = (video.max(-1) - video.min(-1)).mean()
    values = {"saturation": saturation, "motion": motion, "sharpness": edges, "diversity": others}
    return {name: float(value) for name, value in values.items()}


def ratios(values: dict[str, float], real: dict[str, float]) -> dict[str, float]:
    return {name: (values[name] + FLOOR) / (real[name] + FLOOR) for name in real}


class Samples(Health):
    """The watch over a distillation: small samples of the student.

    Distribution matching fails in known ways: oversaturation, static motion, over-sharp edges, one clip for all seeds.
    A few clips are generated with the student's own few steps and guidance (standard form), and their saturation,
    motion, sharpness and diversity are compared with those of real clips of the same captions: a deviation is the worst
    of the ratios, either way. `decode` turns latents into clips; `batch` holds real clips.
    """

    collapsed = 4.0

    def __init__(
        self, batch: Batch, schedule: FewStepSchedule, decode: Callable[[Tensor], np.ndarray], folder: Path,
        guidance: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(folder)
        self.batch, self.schedule, self.decode, self.guidance = batch, schedule, decode, guidance
        self.real = measure(decode(batch.x0))

    def check(self, student: Net) -> dict[str, float]:
        """Ratios to real clips, of clips generated now."""
        s, x0 = self.schedule, self.batch.x0
        generators = generators_for(list(range(len(x0))))
        noise = noise_for(tuple(x0.shape[1:]), generators).to(x0)
        few = at_once(x0)
        parts = [slice(i, i + few) for i in range(0, len(x0), few)]
        cond = self.batch.cond
        latents = [sample(student, s, self.guidance, noise[p], cond[p], generators[p]) for p in parts]
        return ratios(measure(self.decode(torch.cat(latents))), self.real)

    def deviation(self, found: dict[str, float]) -> float:
        return max(math.exp(abs(math.log(r))) for r in found.values())

    def warning(self, found: dict[str, float]) -> str | None:
        beyond = {name: r for name, r in found.items() if not 1 / WARN <= r <= WARN}
        return "; ".join(f"{name} {r:.2f} times that of real clips" for name, r in beyond.items()) or None


def at_once(x0: Tensor) -> int:
    """How many of these clips a look takes at once."""
    return max(1, NUMBERS // x0[0].numel())


# -- recovery ---------------------------------------------------------------------------------------------------


class Velocities(Health):
    """The watch over a recovery: how far the pruned network's velocities are from the original's,

        e = E || v_pruned(x_t, t) - v_original(x_t, t) ||^2   over free frames,

    on clips, noise and times that stay the same, against e of the pruned network before any training.

    Stage III starts from the pruned network, and what it is wanted for is the original's velocity: e says how much of
    it there is. The loss does not: recoveries have different ones, and where blocks are drawn most of it is of other
    sub-networks. Samples do not either: without its blocks a network that is well recovered still needs many steps
    under guidance. On fixed clips, noise and times two looks differ by the weights alone: `RELAPSE` times an earlier
    one is no chance. And what training has made worse than no training at all is better not handed on, so that the
    weights a stage begins with may be its best.
    """

    collapsed = 1.0
    from_start = True

    @torch.no_grad()
    def __init__(self, samples: Iterable[Sample], original: Net, pruned: View, folder: Path) -> None:
        super().__init__(folder)
        self.samples, self.pruned = list(samples), pruned
        self.targets = [original(noised(s.x0, s.x1, s.t), s.t, s.cond) for s in self.samples]
        self.untrained = self.error(original)

    @torch.no_grad()
    def error(self, net: Net) -> float:
        errors = []
        for s, target in zip(self.samples, self.targets, strict=True):
            v = net(noised(s.x0, s.x1, s.t), s.t, s.cond, self.pruned)
            errors.append(masked_mean((v.float() - target.float()).pow(2), s.cond.free(s.x0)))
        return float(torch.cat(errors).double().mean())

    def check(self, student: Net) -> dict[str, float]:
        return {"velocity_error": self.error(student)}

    def deviation(self, found: dict[str, float]) -> float:
        """Of a network that begins narrowed the first look is what it was before any training; one that begins with
        weights of an earlier training was worse before that."""
        first = self.record().get("first", found)["velocity_error"]
        return found["velocity_error"] / max(self.untrained, first, TINY)

    def warning(self, found: dict[str, float]) -> str | None:
        if not self.has_collapsed(found):
            return None
        times, when, record = self.deviation(found), "before training", self.record()
        if times <= self.collapsed:
            times, when = times / record["deviation"], f"at iteration {record['step']}"
        return f"the pruned network's velocities are {times:.3g} times as far from the original's as {when}"

    def has_collapsed(self, found: dict[str, float]) -> bool:
        relapse = max(LOST, RELAPSE * self.record()["deviation"])
        return not self.deviation(found) <= min(self.collapsed, relapse)
