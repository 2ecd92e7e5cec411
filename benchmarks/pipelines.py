"""Any diffusers video pipeline as it comes, with no adapter of ours: its clips for a list of prompts, one at a time."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flc.data.image import read_image
from flc.errors import UserError
from flc.evaluate.manifest import Shot
from flc.evaluate.sampling import now
from flc.models.folder import NOTES, adapter_for, read_json
from flc.models.quiet import hush
from flc.models.safe import check_pipeline

SETTINGS: dict[str, Any] = {"steps": int, "guidance": float, "frames": int, "height": int, "width": int}


@dataclass(frozen=True)
class Contestant:
    """`NAME=FOLDER[,steps=N][,guidance=G][,frames=F][,height=H][,width=W]`; what is not said is the folder's own, or
    else the pipeline's default, and of sizes the suite's. `error`: why there is no such folder, where that is known."""

    name: str
    folder: Path
    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    error: str = ""

    @classmethod
    def read(cls, text: str) -> Contestant:
        name, _, rest = text.partition("=")
        folder, *settings = rest.split(",")
        given = dict(item.split("=", 1) for item in settings if "=" in item)
        if not name or not folder or len(given) != len(settings) or not given.keys() <= SETTINGS.keys():
            known = ", ".join(SETTINGS)
            raise UserError(f"--pipelines {text}: give NAME=FOLDER or NAME=FOLDER,steps=50,guidance=6 ({known})")
        try:
            return cls(name, Path(folder), **{k: SETTINGS[k](v) for k, v in given.items()})
        except ValueError as error:
            raise UserError(f"--pipelines {text}: {error}") from error


class Stock:
    """The pipelines of a folder: for text alone, and for text with a first frame where the family has one."""

    def __init__(self, contestant: Contestant, device: str, dtype: str) -> None:
        if not contestant.folder.is_dir():
            raise UserError(f"--pipelines {contestant.name}: {contestant.folder} is no folder")
        hush()
        self.contestant, self.device, self.folder = contestant, torch.device(device), contestant.folder
        self.dtype, self.precision = dtype, getattr(torch, dtype)
        self.notes = read_json(self.folder / NOTES) if (self.folder / NOTES).exists() else {}
        self.loaded: dict[bool, Any] = {}

    def pipe(self, with_image: bool) -> Any:
        """The pipeline for this kind of prompt; the second kind shares the first one's components."""
        if with_image not in self.loaded:
            if self.folder_takes_images is False and with_image:
                raise UserError(f"{self.folder} takes no first frame")
            found = self._read(with_image)
            takes = inspect.signature(found.__call__).parameters
            if with_image and "image" not in takes:
                raise UserError(f"{self.folder}: {type(found).__name__} takes no first frame")
            if not with_image and "image" in takes and takes["image"].default is not None:
                raise UserError(f"{self.folder}: {type(found).__name__} needs a first frame")
            if self.contestant.guidance is not None and "guidance_scale" not in takes:
                raise UserError(f"{self.folder}: {type(found).__name__} takes no guidance: leave it out")
            found.set_progress_bar_config(disable=True)
            self.loaded[with_image] = found.to(self.device)
        return self.loaded[with_image]

    @cached_property
    def adapter(self) -> Any:
        """Ours, where one knows the family; None of another one."""
        try:
            return adapter_for(self.folder)
        except UserError:
            return None

    @property
    def folder_takes_images(self) -> bool | None:
        """None of a family that no adapter of ours knows."""
        return None if self.adapter is None else self.adapter.takes_first_frame(self.folder)

    def _read(self, with_image: bool) -> Any:
        """Weights in the contestant's precision; components that diffusers keeps in float32 stay so."""
        from diffusers import DiffusionPipeline

        if self.loaded:
            other = next(iter(self.loaded.values()))
            if self.folder_takes_images:
                return self.adapter.stock_class(with_image).from_pipe(other)
            return other
        try:
            if self.adapter is not None:
                return self.adapter.stock_pipeline(self.folder, with_image, self.dtype)
            check_pipeline(self.folder)
            return DiffusionPipeline.from_pretrained(
                self.folder, dtype=self.precision, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{self.folder} does not load: {str(error).splitlines()[0]}") from error

    @property
    def parameters(self) -> int:
        pipe = next(iter(self.loaded.values()), None) or self._read(bool(self.folder_takes_images))
        networks = [getattr(pipe, name, None) for name in ("transformer", "transformer_2", "unet")]
        return sum(p.numel() for network in networks if network is not None for p in network.parameters())

    @property
    def fps(self) -> int:
        """Frames a second of its clips: what its folder or our adapter says, or 8."""
        return int(self.notes.get("fps", 8)) if self.adapter is None else self.adapter.fps_of(self.folder)

    def takes(self, with_image: bool) -> Any:
        """The parameters of its call; image-to-video without text (SVD) takes no prompt and another guidance."""
        return inspect.signature(self.pipe(with_image).__call__).parameters

    def settings(self, with_image: bool) -> dict[str, Any]:
        """Steps and guidance, as the contestant, its folder or its pipeline says."""
        takes, own = self.takes(with_image), self.contestant
        asked = (("num_inference_steps", own.steps, "steps"), ("guidance_scale", own.guidance, "guidance"))
        settings = {
            name: given if given is not None else self.notes.get(note, takes[name].default)
            for name, given, note in asked
            if name in takes
        }
        if self.adapter is not None:
            settings.pop("guidance_scale", None)
            settings |= self.adapter.call_settings(self.folder, self.guidance)
        return settings

    @property
    def guidance(self) -> float | None:
        """By the text, in standard form, where an adapter of ours knows the family; what the contestant, its folder or
        its pipeline says elsewhere."""
        if self.contestant.guidance is not None or self.adapter is None:
            return self.contestant.guidance
        return float(self.adapter.guidance_of(self.folder))

    def clip(self, shot: Shot, size: tuple[int, int, int]) -> np.ndarray:
        """(frames, height, width, 3) in [0, 1]"""
        from PIL import Image

        frames, height, width = size
        call: dict[str, Any] = {"prompt": shot.prompt, "height": height, "width": width, "num_frames": frames}
        if shot.image is not None:
            image = read_image(shot.image, height, width)
            call["image"] = Image.fromarray((image * 255).round().astype(np.uint8))
        pipe = self.pipe(shot.image is not None)
        call = {name: value for name, value in call.items() if name in self.takes(shot.image is not None)}
        torch.manual_seed(shot.seed)  # of the first noise and of a stochastic scheduler's
        made = pipe(**call, **self.settings(shot.image is not None), output_type="np").frames[0]
        return np.asarray(made, np.float32)


def clips(stock: Stock, shots: Sequence[Shot], size: tuple[int, int, int]) -> np.ndarray:
    """(N, frames, height, width, 3)"""
    return np.stack([stock.clip(shot, size) for shot in shots])


def seconds(stock: Stock, shots: Sequence[Shot], size: tuple[int, int, int]) -> float:
    """Seconds of a whole call, mean over the shots, after a short one to warm up."""
    short = Stock(replace(stock.contestant, steps=2), str(stock.device), stock.dtype)
    short.loaded = stock.loaded
    short.clip(shots[0], size)
    began = now(stock.device)
    clips(stock, shots, size)
    return (now(stock.device) - began) / len(shots)
