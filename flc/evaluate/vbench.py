"""One row under VBench: its videos written, the official package run on them, its JSON read.

A row's folder holds `videos/`, `full_info.json` (which prompt counts for which dimension), `seeds.json` (VBench asks
for the seed of every video), `row.json` (the row's columns of the table) and `results/`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flc.data.image import read_image
from flc.data.source import write_video
from flc.errors import UserError
from flc.evaluate.manifest import Asked, Shot
from flc.evaluate.sampling import Row, condition, generate, prompts_of
from flc.evaluate.vbench_layout import DIMENSIONS, SUMMARIES, file_name, info_of, normalised
from flc.files import parse_json, read_text, whole, write_text
from flc.recipe import EvaluateStage

DRIVER = Path(__file__).with_name("vbench_driver.py")
VIDEOS, INFO, SEEDS_OF, ROW, RESULTS = "videos", "full_info.json", "seeds.json", "row.json", "results"
CRF = 10  # as the sampling scripts of VBench-I2V write
IMAGES = "images"  # beside the rows: first frames of a manifest
INSTALL = "python3.10 -m venv vbench-env && vbench-env/bin/pip install torch torchvision vbench"
NO_VALUE = "no value was written, as when it finds no videos of the names that it expects"
OPTION = "--set evaluate.vbench_python=vbench-env/bin/python"
PYTHON = "FLC_VBENCH_PYTHON"  # of the user's environment


def missing(folder: Path, shots: Sequence[Shot]) -> list[Shot]:
    return [s for s in shots if not (folder / VIDEOS / file_name(s.prompt, s.number)).exists()]


def describe_videos(folder: Path, asked: Sequence[Asked], shots: Sequence[Shot], suite: str) -> None:
    """What the row's folder says about its videos."""
    (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
    (folder / INFO).write_text(json.dumps(info_of(asked, suite), indent=1))
    seeds = {file_name(s.prompt, s.number): s.seed for s in shots}
    (folder / SEEDS_OF).write_text(json.dumps(seeds, indent=1))


def as_seen(asked: Sequence[Asked], folder: Path, size: tuple[int, int, int]) -> list[Asked]:
    """With a manifest's first frames as the model sees them, written into `folder`: VBench compares a video with its
    first frame, takes three channels only and crops nothing. Its own images are as it wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for a in asked:
        if a.image is not None and not a.dimensions:
            path = folder / f"{sha256(a.prompt.encode()).hexdigest()[:16]}.png"
            Image.fromarray((read_image(a.image, *size[1:]) * 255).round().astype(np.uint8)).save(path)
            a = replace(a, image=path)
        out.append(a)
    return out


def write_videos(
    adapter: Any,
    row: Row,
    shots: Sequence[Shot],
    folder: Path,
    size: tuple[int, int, int],
    negative: str,
    batch: int,
    fps: int,
    on_step: Callable[[], Any],
    rank: int = 0,
) -> None:
    """The row's videos that are not there yet, `batch` at a time; size is (frames, height, width). Ranks may share the
    folder, each with shots of its own; the times that are kept are the first one's."""
    before = json.loads((folder / ROW).read_text()) if (folder / ROW).exists() else {"seconds": 0.0, "timed": 0}
    seconds, timed = before["seconds"] * before["timed"], before["timed"]
    pending = missing(folder, shots)
    if rank == 0 and not (folder / ROW).exists():
        pending = pending or list(shots[:1])  # others made all of them: one more, for the time
    for begin in range(0, len(pending), batch):
        part = pending[begin : begin + batch]
        prompts = prompts_of(part, *size[1:])
        cond = condition(adapter, prompts, negative, size[0])
        made, each = generate(adapter, row, prompts, cond, adapter.latent_shape(*size), batch, on_step)
        for shot, video in zip(part, made.video, strict=True):
            # a prompt may be as long as a file's name can be
            with whole(folder / VIDEOS / file_name(shot.prompt, shot.number), f"{rank}.mp4") as partial:
                write_video(partial, video, fps, 4 if size[1] < 128 else 1, CRF)
        seconds, timed = seconds + each * len(part), timed + len(part)
        facts = {"name": row.name, "title": row.title, "steps": row.steps, "guidance": row.guidance}
        facts |= {"parameters": row.parameters, "seconds": seconds / timed, "timed": timed}
        if rank == 0:
            write_text(folder / ROW, json.dumps(facts))


def python_of(o: EvaluateStage) -> Path | None:
    """The interpreter that the command line names, or the user's own environment."""
    named = o.vbench_python or os.environ.get(PYTHON)
    return Path(named) if named else None


def command(python: Path, suite: str, folder: Path, device: str, dimensions: Sequence[str]) -> list[str]:
    """Runs VBench on a row's folder. The path of an environment's python is a link that must not be resolved."""
    places = (folder / VIDEOS, folder / INFO, folder / RESULTS)
    return [str(python.absolute()), str(DRIVER), suite, *(str(p.absolute()) for p in places), device, *dimensions]


def run(python: Path, suite: str, folder: Path, device: str, dimensions: Sequence[str]) -> dict[str, str]:
    """Measure the dimensions of a row; why it failed, of each that did. All output is in results/log.txt."""
    (folder / RESULTS).mkdir(exist_ok=True)
    log = folder / RESULTS / "log.txt"
    try:
        with open(log, "w") as file:
            done = subprocess.run(
                command(python, suite, folder, device, dimensions),
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder / RESULTS,
                env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")},  # of flc's python
            )
    except OSError as error:
        return dict.fromkeys(dimensions, f"{python} does not run: {error.strerror}")
    if done.returncode == 0:
        return {}
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    starts = {d: f"{d}: " for d in dimensions}  # the driver's lines
    own = {d: line.removeprefix(s)[:200] for line in lines for d, s in starts.items() if line.startswith(s)}
    return own or dict.fromkeys(dimensions, lines[-1][:200] if lines else f"exit code {done.returncode}")


def told(reasons: Mapping[str, str]) -> str:
    """Why dimensions are missing, each reason once: "a, b (no network); c (out of memory)"."""
    of: dict[str, list[str]] = {}
    for dimension, reason in reasons.items():
        of.setdefault(reason, []).append(dimension)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in of.items())


@dataclass(frozen=True)
class Measured:
    """A dimension's value over a row, in [0, 1], and over how many videos."""

    value: float
    videos: int


def read_results(folder: Path) -> dict[str, Measured]:
    """What VBench wrote for a row, `*_eval_results.json` of {dimension: [mean, [{video_path, video_results}, ...]]}.

    Several files add up, as VBench writes one per call; of a dimension measured twice the newest counts. The mean of
    no videos, nan, is no value.
    """
    found: dict[str, Measured] = {}
    for path in sorted(folder.glob("*_eval_results.json"), key=lambda p: (p.stat().st_mtime, p.name)):
        try:
            contents = parse_json(read_text(path))
            for dimension, (mean, videos) in contents.items():
                found[dimension] = Measured(float(mean), len(videos))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a result of VBench ({error}): delete it and run again") from error
    return {dimension: measured for dimension, measured in found.items() if math.isfinite(measured.value)}


def result_row(
    facts: Mapping[str, Any], found: Mapping[str, Measured], wanted: Mapping[str, int], wrong: Mapping[str, str]
) -> dict[str, Any]:
    """A row of metrics.json. The average is the plain mean over the suite's dimensions, as papers print it, and n/a
    where one is missing (`wrong`: why); what the leaderboard makes of each value stands under `normalised`."""
    scores = {d: found[d].value if d in found else None for d in wanted}
    values = {d: v for d, v in scores.items() if v is not None}
    notes = {d: f"{found[d].videos} of {n} videos" for d, n in wanted.items() if d in found and found[d].videos != n}
    return {
        **{k: facts[k] for k in ("name", "title", "steps", "guidance", "parameters", "seconds")},
        "average": sum(values.values()) / len(values) if len(values) == len(scores) else None,
        "scores": scores,
        "notes": notes | {d: wrong.get(d, NO_VALUE) for d in scores if d not in values},
        "normalised": {d: normalised(d, v) for d, v in values.items()},
    }


def lacks(row: Mapping[str, Any]) -> str:
    """Why a row of metrics.json has no average; empty where it has one."""
    return "" if row["average"] is not None else next(row["notes"][d] for d, v in row["scores"].items() if v is None)


def described(suite: str) -> list[dict[str, Any]]:
    """The suite's metrics as metrics.json lists them."""
    return [{"name": d, "summary": f"VBench: {SUMMARIES[d]}", "in_average": True} for d in DIMENSIONS[suite]]
