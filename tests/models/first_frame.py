"""Clips from a first frame: by a stock pipeline, and by an adapter for the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from flc.api import View
from flc.data.source import drawn_clips
from flc.models.condition import Condition
from flc.sample import generators_for, noise_for, sample
from flc.schedule import Walk
from flc.train.nets import RoleNet

PROMPT, OTHER = "a blue square moving up", "a red circle moving left"
SIZE = {"height": 32, "width": 32, "num_frames": 9}
SHAPE = (4, 3, 4, 4)
# float32 sums in another order (no padding rows of texts, guidance in one batch), through 4 steps and a decoder; one
# 8-bit level is .004
TOLERANCE = 2e-3


def image(index: int = 0) -> np.ndarray:
    """(1, 32, 32, 3), of 8 bits."""
    (*_, (video, _)) = drawn_clips(index + 1, 5, 32, 32, seed=0)
    return (video[:1] * 255).round().astype(np.uint8).astype(np.float32) / 255


def shown(picture: np.ndarray) -> Image.Image:
    return Image.fromarray((picture[0] * 255).round().astype(np.uint8))


def stock_clip(pipe: Any, picture: np.ndarray, **call: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(7)
    asked = {**SIZE, "num_inference_steps": 4, "output_type": "np"} | call
    return pipe(image=shown(picture), prompt=PROMPT, **asked).frames[0]


def given(adapter: Any, pictures: np.ndarray, prompts: Sequence[str]) -> Condition:
    return replace(adapter.condition(prompts), **adapter.first_frames(pictures, 9, prompts))


def ours(adapter: Any, scheduler: Any, picture: np.ndarray, guidance: float = 1.0) -> np.ndarray:
    net, generators = RoleNet(adapter, adapter.transformer, adapter.transformer, View()), generators_for([7])
    noise, walk = noise_for(adapter.latent_shape(9, 32, 32), generators), Walk(scheduler, 4, adapter.grid(4))
    return adapter.decode(sample(net, walk, guidance, noise, given(adapter, picture, [PROMPT]), generators))[0]
