"""What VBench expects to find: prompts, file names, images and the table that joins them. No clip is made here.

VBench (Huang et al. 2024, arXiv:2311.17982) and VBench-I2V (arXiv:2411.13503), github.com/Vchitect/VBench, release
0.1.5 and its main branch of March 2026. A row's videos lie in one folder as `{prompt}-{index}.mp4`, index 0 to 4, each
from another seed. A JSON list of `{"prompt_en", "dimension": [...], "image_name"}` says which prompt counts for which
dimension; VBench ships it as `VBench_full_info.json` and `vbench2_i2v_full_info.json`, and takes any other of the form.
An image-to-video prompt names its image in `data/crop/<ratio>/`, of four ratios, which `download_data.sh` fetches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flc.data.image import open_image
from flc.errors import UserError
from flc.evaluate.manifest import Asked
from flc.files import parse_json, read_text

SEEDS = 5
#: Dimensions of the table, by suite: those that need no more than the video (and its image).
QUALITY = ("subject_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality", "imaging_quality",
           "temporal_flickering")  # fmt: skip
DIMENSIONS = {"vbench": QUALITY, "vbench-i2v": ("i2v_subject", *QUALITY)}
INFO = {"vbench": "VBench_full_info.json", "vbench-i2v": "vbench2_i2v_full_info.json"}
#: Where a checkout of VBench has that file.
FOLDERS = {"vbench": "VBench/vbench", "vbench-i2v": "VBench/vbench2_beta_i2v"}
CROPS = {"1-1": 1.0, "8-5": 8 / 5, "7-4": 7 / 4, "16-9": 16 / 9}
#: The values that VBench's leaderboard maps to 0 and 1 (its scripts/constant.py); other dimensions stay as they are. It
#: lists no flickering for image-to-video; the range here is that of text-to-video.
RANGES = {
    "i2v_subject": (0.1462, 1.0),
    "subject_consistency": (0.1462, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "temporal_flickering": (0.6293, 1.0),
}
SUMMARIES = {
    "i2v_subject": "likeness of the subject to the given image (DINO features)",
    "subject_consistency": "likeness of the subject from frame to frame and to the first (DINO features)",
    "motion_smoothness": "error of every second frame interpolated from its neighbours (AMT), 1 is none",
    "dynamic_degree": "share of clips with large optical flow (RAFT)",
    "aesthetic_quality": "LAION's aesthetic predictor on CLIP features of frames, over 10",
    "imaging_quality": "technical quality of frames (MUSIQ), over 100",
    "temporal_flickering": "1 minus the mean change from frame to frame, moving clips too (leaderboard: still ones)",
}
#: Names of files have at most 255 bytes nearly everywhere.
LONGEST = 255


def file_name(prompt: str, number: int) -> str:
    return f"{prompt}-{number}.mp4"


def normalised(dimension: str, value: float) -> float:
    """A dimension's value as the leaderboard counts it: 0 and 1 are the ends of its range in `RANGES`."""
    low, high = RANGES.get(dimension, (0.0, 1.0))
    return (value - low) / (high - low)


def crop(height: int, width: int) -> str:
    """The ratio of VBench-I2V's images that is nearest to a frame's."""
    return min(CROPS, key=lambda name: abs(math.log(CROPS[name] * height / width)))


def official_prompts(folder: Path, suite: str, height: int, width: int) -> list[Asked]:
    """VBench's own prompts for the suite's dimensions, with their images, from `folder` of a checkout."""
    entries = read_info(folder, suite)
    images = folder / "data" / "crop" / crop(height, width)
    asked: dict[str, Asked] = {}
    for entry in entries:
        prompt = entry["prompt_en"]
        before = asked[prompt].dimensions if prompt in asked else ()  # a prompt may stand there once per dimension
        dimensions = tuple(d for d in DIMENSIONS[suite] if d in entry["dimension"] or d in before)
        if dimensions:
            image = images / entry["image_name"] if suite == "vbench-i2v" else None
            asked[prompt] = Asked(prompt, image, None, str(folder / INFO[suite]), dimensions)
    missing = [a.image for a in asked.values() if a.image is not None and not a.image.is_file()]
    if missing:
        text = f"{missing[0]} does not exist ({len(missing)} of {len(asked)} images are missing)"
        raise UserError(f"{text}: VBench's download_data.sh fetches them, or give a --manifest")
    for a in asked.values():
        if a.image is not None:
            open_image(a.image, f"{a.where}: ")
    return list(asked.values())


def read_info(folder: Path, suite: str) -> list[dict[str, Any]]:
    """The suite's table of prompts; `UserError` when the folder has none, or another thing under its name."""
    path, hint = folder / INFO[suite], f"give --set evaluate.vbench_data={FOLDERS[suite]} of a VBench checkout"
    try:
        entries = parse_json(read_text(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {hint}, or a --manifest") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {hint}, or a --manifest") from error
    keys = {"prompt_en", "dimension"} | ({"image_name"} if suite == "vbench-i2v" else set())
    if not isinstance(entries, list) or not all(isinstance(e, dict) and has_text(e, keys) for e in entries):
        raise UserError(f"{path} is not a list of {', '.join(sorted(keys))}: {hint}, or a --manifest")
    return entries


def has_text(entry: dict[str, Any], keys: set[str]) -> bool:
    """Whether an entry has these keys, `dimension` with a list of names, the others with a text."""
    return all(isinstance(entry.get(k), list if k == "dimension" else str) for k in keys)


def check_names(asked: Sequence[Asked]) -> None:
    """VBench finds a video by its prompt alone: prompts must be names of files, each another."""
    seen: dict[str, str] = {}
    for a in asked:
        if a.prompt in seen:
            raise UserError(f"{a.where} repeats the prompt of {seen[a.prompt]}: VBench tells clips apart by prompt")
        if any(c in a.prompt for c in "/\0\n"):
            raise UserError(f"{a.where}: VBench names files after prompts, which may not hold a slash or a line's end")
        if len(file_name(a.prompt, 0).encode()) > LONGEST:
            raise UserError(f"{a.where}: VBench names files after prompts, and this one is too long for a file's name")
        seen[a.prompt] = a.where


def info_of(asked: Sequence[Asked], suite: str) -> list[dict[str, Any]]:
    """The table of prompts for these clips. VBench joins `image_name` to a folder of its own, which an absolute path
    overrides; release 0.1.5 knows no other key for images."""
    return [
        {"prompt_en": a.prompt, "dimension": list(a.dimensions or DIMENSIONS[suite])}
        | ({"image_name": str(a.image.absolute())} if a.image is not None else {})
        for a in asked
    ]


def expected(asked: Sequence[Asked], suite: str) -> dict[str, int]:
    """How many videos of a row each dimension is measured on."""
    return {d: SEEDS * sum(d in (a.dimensions or DIMENSIONS[suite]) for a in asked) for d in DIMENSIONS[suite]}
