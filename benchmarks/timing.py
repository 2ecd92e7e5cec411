"""Seconds of sampling a clip, of many students side by side: one process, warm, in turn, round after round.

A machine is now faster and now slower; what is timed in turn is slowed alike, and ratios within a round stand. Time
depends on a network's shape and not on what it has learned, so each student is the base model without the blocks and
channels that its plan removes, at the steps and guidance it declares: what is kept of a run is enough.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records import Record
from flc.api import View
from flc.errors import UserError
from flc.evaluate.sampling import blank, now
from flc.models.channels import narrowed
from flc.models.folder import EMBEDDED, adapter_for
from flc.models.quiet import hush
from flc.models.view import blocks_of
from flc.sample import generators_for, noise_for, sample
from flc.schedule import Walk
from flc.train.nets import RoleNet


def turn(adapter: Any, run: Record, clips: int) -> float:
    """Seconds a clip of a network of the shape of a run's student."""
    depths = {stack: len(blocks_of(adapter.transformer, stack)) for stack in adapter.stacks}
    channels = run.ffn and {stack: [list(range(left))] * depths[stack] for stack, left in run.ffn.items()}
    module = narrowed(adapter, adapter.transformer, channels)
    net = RoleNet(adapter, module, module, View(run.kept))
    scheduler = adapter.schedule(run.steps, run.shift, run.sampler).scheduler
    return seconds(adapter, net, scheduler, run.steps, run.guidance, run.size, clips)


def seconds(
    adapter: Any, net: RoleNet, scheduler: Any, steps: int, guidance: float, size: tuple[int, int, int], clips: int
) -> float:
    """Seconds a clip, warm, without decoding."""
    generators, cond = generators_for(list(range(clips))), blank(adapter, clips, size)
    noise = noise_for(adapter.latent_shape(*size), generators).to(adapter.device)
    few, all_of_them = (Walk(scheduler, n, adapter.grid(n)) for n in (min(steps, 4), steps))
    sample(net, few, guidance, noise, cond, generators)  # warm
    began = now(adapter.device)
    sample(net, all_of_them, guidance, noise, cond, generators)
    return (now(adapter.device) - began) / clips


def interleaved(
    runs: Mapping[str, Record], rounds: int = 5, clips: int = 8, model: str | None = None, device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds a clip of each run's student, one number a round; one that fails is left out, and said."""
    if not runs:
        return {}
    base = Path(model) if model else EMBEDDED
    hush()
    try:
        adapter = adapter_for(base).load(base, device, dtype)
    except (UserError, RuntimeError, OSError) as error:  # a table can be finished where the weights are not
        print(f"no row has a time: {type(error).__name__}: {error}", file=sys.stderr)
        return {}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in list(found):
            try:
                found[name].append(turn(adapter, runs[name], clips))
            except (UserError, RuntimeError, OSError, KeyError) as error:  # not worth a finished table
                print(f"{name} has no time: {type(error).__name__}: {error}", file=sys.stderr)
                del found[name]
    return found
