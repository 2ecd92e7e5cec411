"""Early warnings while distilling: the loss says nothing about quality, so small samples are looked at.

Distribution matching fails in known ways: oversaturation, static motion, over-sharp edges, one clip for all
seeds. Every `check_every` iterations a few clips are generated with the student's own few steps, and their
saturation, motion, sharpness and diversity are compared with those of real clips of the same captions. A
ratio beyond `WARN` is said; beyond `COLLAPSED` at the end, the stage hands on its best checked weights.
All thresholds are ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from flc.api import Batch, Net
from flc.files import whole, write_text
from flc.models.folder import read_tensors
from flc.sample import generators_for, noise_for, sample
from flc.schedule import FewStepSchedule

WARN, COLLAPSED = 2.0, 4.0
BEST, RECORD = "best.safetensors", "health.json"
#: Of the latents that are sampled at once, at the most, but one clip's: one of full size fills the network as it is.
NUMBERS = 2**20
FLOOR = 1e-3
"""Added to both sides of a ratio: a quarter of an 8-bit level, below what anyone sees."""


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


def deviation(found: dict[str, float]) -> float:
    """The worst of the ratios, as a factor of at least 1."""
    return max(math.exp(abs(math.log(r))) for r in found.values())


def warning(found: dict[str, float]) -> str | None:
    said = [f"{name} {r:.2f} times that of real clips" for name, r in found.items() if not 1 / WARN <= r <= WARN]
    return "; ".join(said) or None


class Health:
    """The watch over one distillation. `decode` turns latents into clips; `batch` holds real clips."""

    def __init__(self, batch: Batch, schedule: FewStepSchedule, decode: Callable[[Tensor], np.ndarray], folder: Path):
        self.batch, self.schedule, self.decode, self.folder = batch, schedule, decode, folder
        self.real = measure(decode(batch.x0))

    def check(self, student: Net) -> dict[str, float]:
        """Ratios to real clips, of clips generated now."""
        s, x0 = self.schedule, self.batch.x0
        generators = generators_for(list(range(len(x0))))
        noise = noise_for(tuple(x0.shape[1:]), generators).to(x0)
        few = max(1, NUMBERS // x0[0].numel())
        parts = [slice(i, i + few) for i in range(0, len(x0), few)]
        cond = self.batch.cond
        latents = [sample(student, s, 1.0, noise[p], cond[p], generators[p]) for p in parts]
        return ratios(measure(self.decode(torch.cat(latents))), self.real)

    def record(self) -> dict[str, Any]:
        """The best check so far and the last one; in the folder, so that a resumed run knows them."""
        path = self.folder / RECORD
        return json.loads(path.read_text()) if path.exists() else {"step": -1, "deviation": math.inf, "last": {}}

    def is_best(self, found: dict[str, float]) -> bool:
        return deviation(found) < self.record()["deviation"]

    def remember(self, step: int, found: dict[str, float], state: dict[str, Tensor] | None) -> None:
        """Note a check; `state` are its weights when it was the best. Repeating a step changes nothing."""
        record = self.record() | {"last": found}
        if state is not None:
            with whole(self.folder / BEST) as best:
                save_file({n: v.contiguous() for n, v in state.items()}, best)
            record |= {"step": step, "deviation": deviation(found)}
        write_text(self.folder / RECORD, json.dumps(record))

    def rescue(self) -> tuple[int, dict[str, Tensor]] | None:
        """The best weights and their step, when the last check says the run collapsed and an earlier one did not."""
        record = self.record()
        if not record["last"] or deviation(record["last"]) < COLLAPSED or record["deviation"] >= COLLAPSED:
            return None
        return record["step"], read_tensors(self.folder / BEST)
