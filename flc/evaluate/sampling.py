"""The rows of the table: which network, how many steps, which guidance; and their clips.

Every row sees the same prompts, the same first frames and the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flc.api import Net
from flc.data.image import read_image
from flc.data.source import Clip
from flc.evaluate.clips import Clips
from flc.evaluate.manifest import Shot, clip_seed
from flc.models.condition import Condition
from flc.sample import generators_for, noise_for, sample
from flc.schedule import Walk


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    net: Net
    scheduler: Any
    steps: int
    guidance: float
    parameters: int


@dataclass(frozen=True)
class Prompts:
    """What every row is asked for. `given` clips start from the first frame of a real clip."""

    captions: tuple[str, ...]
    seeds: list[int]
    first: np.ndarray
    given: np.ndarray


def make_prompts(clips: list[Clip], seeds: int, given_share: float, seed: int) -> Prompts:
    """Each clip's caption (and, for the first `given_share` of them, its first frame) with `seeds` seeds."""
    captions, numbers, first, given = [], [], [], []
    for index, (video, caption) in enumerate(clips):
        for s in range(seeds):
            captions.append(caption)
            numbers.append(clip_seed(seed, index, seeds, s))
            first.append(video[0])
            given.append(index < given_share * len(clips))
    return Prompts(tuple(captions), numbers, np.stack(first), np.array(given))


def prompts_of(shots: Sequence[Shot], height: int, width: int) -> Prompts:
    """The clips of a manifest; the first frame of one without an image is black and not given."""
    black = np.zeros((height, width, 3), np.float32)
    first = [black if shot.image is None else read_image(shot.image, height, width) for shot in shots]
    given = np.array([shot.image is not None for shot in shots])
    return Prompts(tuple(s.prompt for s in shots), [s.seed for s in shots], np.stack(first), given)


def condition(adapter: Any, prompts: Prompts, negative: str, frames: int) -> Condition:
    """Of clips of so many frames."""
    if adapter.needs_first_frame:
        images = adapter.first_frames(prompts.first, frames, prompts.captions)
        return replace(adapter.condition(prompts.captions, negative), **images)
    if not adapter.image_to_video:
        return adapter.condition(prompts.captions, negative)
    given = torch.from_numpy(prompts.given)
    if not given.any():
        return adapter.condition(prompts.captions, negative)
    some = adapter.encode(prompts.first[prompts.given][:, None])
    first = some.new_zeros(len(given), *some.shape[1:])
    first[given.to(adapter.device)] = some
    return adapter.condition(prompts.captions, negative, first, given.to(adapter.device))


def blank(adapter: Any, count: int, size: tuple[int, int, int]) -> Condition:
    """Of empty prompts, and black first frames where there must be some: what a network's time is taken with."""
    frames, height, width = size
    black = np.zeros((count, height, width, 3), np.float32)
    return condition(adapter, Prompts(("",) * count, [0] * count, black, np.zeros(count, bool)), "", frames)


def now(device: torch.device) -> float:
    """Seconds on a clock, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def generate(
    adapter: Any,
    row: Row,
    prompts: Prompts,
    cond: Condition,
    shape: tuple[int, ...],
    batch: int,
    on_step: Callable[[], Any],
) -> tuple[Clips, float]:
    """The row's clips, and seconds of sampling a clip, without decoding. What a network's first call costs once
    (kernels to choose, memory to ask for) is not in them."""
    generators, walk = generators_for(prompts.seeds), Walk(row.scheduler, row.steps, adapter.grid(row.steps))
    noise: Tensor = noise_for(shape, generators).to(adapter.device)
    video, seconds = np.empty(0, np.float32), 0.0
    few, some = noise[:batch], cond[slice(0, batch)]
    with torch.no_grad():
        row.net(few, torch.ones(len(few), device=adapter.device), some)
    for begin in range(0, len(prompts.seeds), batch):
        part = slice(begin, begin + batch)
        began = now(adapter.device)
        x = sample(row.net, walk, row.guidance, noise[part], cond[part], generators[part], on_step)
        seconds += now(adapter.device) - began
        for first in range(begin, begin + len(x), 8):
            few = adapter.decode(x[first - begin : first - begin + 8])
            if not len(video):  # laid out as what is decoded: sums of float32 depend on the order in memory
                video = np.empty_like(few, shape=(len(prompts.seeds), *few.shape[1:]))
            video[first : first + len(few)] = few
    given = prompts.given if adapter.image_to_video else np.zeros(len(prompts.seeds), bool)
    clips = Clips(video, prompts.captions, prompts.first, given)
    return clips, seconds / len(prompts.seeds)
