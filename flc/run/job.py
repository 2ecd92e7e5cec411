"""What the stages of one run share: the recipe, the loaded model, the output folder, the process group."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from flc.api import Budget
from flc.errors import UserError
from flc.models.folder import EMBEDDED, adapter_for
from flc.models.prunable import Prunable
from flc.recipe import Recipe
from flc.registry import create
from flc.run.console import Console
from flc.train.launch import Ranks


@dataclass
class Job:
    recipe: Recipe
    out: Path
    console: Console
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def model_folder(self) -> Path:
        return Path(self.recipe.model) if self.recipe.model else EMBEDDED

    @cached_property
    def adapter(self) -> Any:
        """The loaded model."""
        adapter = adapter_for(self.model_folder)
        return adapter.load(self.model_folder, self.ranks.device(self.recipe.device), self.recipe.dtype)

    @cached_property
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the run."""
        r, default = self.recipe, self.adapter.default_size
        given = (r.frames, r.height, r.width)
        return tuple(g or d for g, d in zip(given, default, strict=True))  # type: ignore[return-value]

    @cached_property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.adapter.latent_shape(*self.size)

    @property
    def guidance(self) -> float:
        given = self.recipe.guidance
        return self.adapter.default_guidance if given is None else given

    @cached_property
    def prunable(self) -> Prunable:
        return Prunable(self.adapter, self.adapter.transformer)

    @property
    def budget(self) -> Budget:
        return Budget(self.recipe.keep, self.prunable.weights)

    def algorithm(self, kind: Any) -> Any:
        choice = getattr(self.recipe, kind)
        return create(kind, choice.name, choice.options)

    def check(self) -> None:
        """Everything that can be refused before the first stage."""
        for kind in ("pruner", "recovery", "distiller", "teacher"):
            self.algorithm(kind)
        check_device(self.recipe.device)
        _ = self.latent_shape
        need = 4 * sum(f.stat().st_size for f in self.model_folder.rglob("*.safetensors"))
        free = shutil.disk_usage(nearest_existing(self.out)).free
        if free < need:
            raise UserError(f"--out {self.out} has {free / 1e9:.1f} GB of disk, about {need / 1e9:.1f} GB are needed")


def nearest_existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"--device {device!r} is not a torch device: cpu, cuda, cuda:1, mps, ...") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU on this machine; use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch sees none on this machine; use --device cpu")
