"""Seconds of sampling a clip, of many pipelines side by side: one process, warm, in turn, round after round.

A machine is now faster and now slower; what is timed in turn is slowed alike, and ratios within a round stand. Weights
are read again for each turn, so that full-size networks need not fit side by side; reading is not timed.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from flc.api import View
from flc.errors import UserError
from flc.evaluate.sampling import now
from flc.models.folder import adapter_for
from flc.sample import noise_for, sample
from flc.train.nets import RoleNet


def turn(folder: Path, clips: int, device: str, dtype: str) -> float:
    """Seconds a clip of a finished folder's pipeline, at the steps and guidance that it declares; without decoding."""
    adapter = adapter_for(folder).load(folder, device, dtype)
    steps, guidance, size = (adapter.notes[name] for name in ("steps", "guidance", "size"))
    net, seeds = RoleNet(adapter, adapter.transformer, adapter.transformer, View()), list(range(clips))
    noise = noise_for(adapter.latent_shape(*size), seeds).to(adapter.device)
    cond = adapter.condition([""] * clips)
    sample(net, adapter.teacher_scheduler(), min(steps, 4), guidance, noise, cond, seeds)  # warm
    began = now(adapter.device)
    sample(net, adapter.teacher_scheduler(), steps, guidance, noise, cond, seeds)
    taken = now(adapter.device) - began
    del net, adapter
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return taken / clips


def interleaved(
    folders: Mapping[str, Path], rounds: int = 5, clips: int = 8, device: str = "cpu", dtype: str = "float32"
) -> dict[str, list[float]]:
    """Seconds a clip of each pipeline, one number a round; a pipeline that fails is left out, and said."""
    found: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(rounds):
        for name in list(found):
            try:
                found[name].append(turn(folders[name], clips, device, dtype))
            except (UserError, RuntimeError, OSError, KeyError) as error:  # not worth a finished table
                print(f"{name} has no time: {type(error).__name__}: {error}", file=sys.stderr)
                del found[name]
    return found
