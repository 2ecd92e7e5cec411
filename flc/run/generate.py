"""`flc generate`: one clip from a folder's stock pipeline, no code of ours in between."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flc.data.image import read_image
from flc.data.source import ANIMATIONS, write_animation, write_video
from flc.errors import UserError
from flc.files import whole
from flc.models.folder import adapter_for, by_name, check
from flc.models.notes import read_notes
from flc.options import LARGEST
from flc.recipe import AUTO, DTYPES, long_name, settled
from flc.run.console import Console
from flc.run.job import check_device


def generate(
    folder: Path, prompt: str, image: Path | None, seed: int, steps: int | None, guidance: float | None,
    height: int | None, width: int | None, frames: int | None, negative: str, device: str, dtype: str, out: Path,
) -> None:  # fmt: skip
    """As the model card's example has it: a schedule that draws noise does so from torch's global generator, which
    draws the first noise, too; where the first is all, it is a generator's on the CPU, the same for every device."""
    folder = by_name(folder)
    check(folder, "PIPELINE")
    check_out(out)
    check_numbers(seed, guidance, {"steps": steps, "height": height, "width": width, "frames": frames})
    if (dtype := long_name(dtype)) not in (AUTO, *DTYPES):
        raise UserError(f"--dtype {dtype} is not one of {', '.join(DTYPES)}")
    notes = read_notes(folder)
    if dtype == AUTO and notes.get("dtype"):
        dtype = notes["dtype"]  # what the student was made in
    device, dtype = settled(device, dtype, torch.cuda.is_available())
    check_device(device)
    adapter, console = adapter_for(folder), Console()
    f, h, w = adapter.size_of(folder)
    scale = adapter.guidance_of(folder) if guidance is None else guidance
    settings: dict[str, Any] = {
        "prompt": prompt,
        "height": height or h,
        "width": width or w,
        "num_frames": frames or f,
        "num_inference_steps": steps or notes.get("steps", 50),
        **adapter.call_settings(folder, scale, negative),
    }
    if image is not None and not adapter.takes_first_frame(folder):
        raise UserError(f"--image {image}: {folder} is a text-to-video model and takes no first frame")
    if image is None and adapter.needs_first_frame:
        raise UserError(f"--image is missing: {folder} makes its clips from a first frame")
    fixed = "sigmas" in notes and adapter.grid(1) is None  # the scheduler's own grid, which ends where theirs does
    if fixed and settings["num_inference_steps"] == 1 != notes["steps"]:
        raise UserError(f"--steps 1: the schedule of {folder} has {notes['steps']} steps and makes nothing of one")
    if "sigmas" in notes and settings["num_inference_steps"] != notes["steps"]:
        console.warn(f"{folder} was trained for {notes['steps']} steps; another number leaves the trained schedule")
    if negative and scale == 1:
        console.warn("--negative-prompt has no effect without guidance: give --guidance above 1")
    if image is not None:
        frame = read_image(image, settings["height"], settings["width"], "--image ")
        settings["image"] = Image.fromarray((frame * 255).round().astype(np.uint8))
    # float32 is what diffusers reads without being told, and what the model card's call says then
    pipe = adapter.stock_pipeline(folder, image is not None, None if dtype == "float32" else dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    adapter.latent_shape(settings["num_frames"], settings["height"], settings["width"], pipe)
    torch.manual_seed(seed)
    own = None if pipe.scheduler.config.get("stochastic_sampling") else torch.Generator().manual_seed(seed)
    with console.bar("generate", settings["num_inference_steps"]) as bar:

        def on_step(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            bar.advance()
            return tensors

        try:
            video = pipe(**settings, generator=own, callback_on_step_end=on_step, output_type="np").frames[0]
        except ValueError as error:  # the stock pipeline's own checks: sizes, prompt
            raise UserError(f"{folder} refuses this call: {error}") from error
        except (TypeError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError) as error:
            # all of it is stock code on the folder's configs, of which not every number is looked at before
            raise UserError(f"{folder} does not run: {type(error).__name__}: {error}: mend its configs") from error
    fps = adapter.fps_of(folder)
    with whole(out) as partial:
        write = write_animation if out.suffix.lower() in ANIMATIONS else write_video
        write(partial, np.asarray(video), fps, 4 if settings["height"] < 128 else 1)
    shown = f"{len(video)} frames of {settings['width']}x{settings['height']} at {fps} a second"
    console.say(f"{out}: {shown}, {settings['num_inference_steps']} steps on {device} in {dtype}")


def check_out(out: Path) -> None:
    if out.suffix.lower() not in (".mp4", *ANIMATIONS) or out.is_dir():
        raise UserError(f"--out {out} must be the name of a file that ends in .mp4, {' or '.join(ANIMATIONS)}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: folder {out.parent} does not exist")
    if out.exists():
        raise UserError(f"--out {out} is there already: give another name, or remove it")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: nothing may be written in {out.parent}")


def check_numbers(seed: int, guidance: float | None, counts: dict[str, int | None]) -> None:
    if guidance is not None and not 1 <= guidance < inf:
        raise UserError(f"--guidance {guidance} must be 1 (none) or more, and finite")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed} must be from 0 to 2^63 - 1")
    for name, value in counts.items():
        if value is not None and not 1 <= value <= LARGEST:
            raise UserError(f"--{name} {value} must be from 1 to {LARGEST}")
