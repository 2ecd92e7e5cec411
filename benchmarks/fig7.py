"""What beta2 does to a clip: one line of frames for each, same prompt and noise (the paper's Fig 7).

    python -m benchmarks.fig7 [--scale tiny] [--seeds 0] [--jobs 2] [--list]

Of several seeds the first is run and shown. The paper sees static clips at 0 and abrupt changes at 1: beside each line
stands its clip's mean change from frame to frame, in [0, 1] of a pixel's range; the teacher's clip is the first line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks import figure, render
from benchmarks.cells import Cell
from benchmarks.runner import Runs
from benchmarks.table import TEACHER
from benchmarks.table5 import cell, rows

SHOWN = 6


def lines(scale: str) -> dict[str, Cell]:
    """The teacher, then each beta2 at the first beta1 of Table 5."""
    (first, _), _ = rows(scale)[0]
    return {"teacher": TEACHER} | {f"beta2 {b2:g}": cell((b1, b2)) for (b1, b2), _ in rows(scale) if b1 == first}


def cells(scale: str) -> list[Cell]:
    return list(lines(scale).values())


def video(path: Path) -> np.ndarray:
    """(frames, height, width, 3) in [0, 1]"""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(np.float32) / 255


def measure(runs: Runs, seeds: list[int]) -> dict[str, Any]:
    shown = []
    (seed,) = seeds
    for label, own in lines(runs.scale.name).items():
        clips = list((runs.path(own, seed) / "evaluate" / "videos" / own.row).glob("*.mp4"))
        if clips:
            clip = max(clips, key=lambda p: int(p.stem))  # the last ones have no first frame given
            change = float(np.abs(np.diff(video(clip), axis=0)).mean())
            shown.append({"label": label, "video": str(clip.relative_to(runs.folder)), "change": change})
    return {"lines": shown}


def draw(values: dict[str, Any], runs: Runs, path: Path) -> None:
    from matplotlib import pyplot

    shown = values["lines"]
    figure.axes()  # chooses the backend
    drawing, places = pyplot.subplots(len(shown), 1, figsize=(9, 1.6 * len(shown) + 0.3), squeeze=False)
    for (axes,), line in zip(places, shown, strict=True):
        frames = video(runs.folder / line["video"])
        chosen = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
        axes.imshow(np.concatenate(list(chosen), axis=1), interpolation="nearest")
        axes.set_ylabel(line["label"], fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"mean change between frames {line['change']:.4f}", fontsize=8, loc="right", pad=2)
    figure.save(drawing, path)


def markdown(values: dict[str, Any]) -> list[str]:
    lines = render.head([f"clip of seed {values['seeds'][0]}", "mean change between frames"])
    return lines + [render.line([shown["label"], f"{shown['change']:.4f}"]) for shown in values["lines"]]


if __name__ == "__main__":
    sys.exit(figure.main("fig7", __doc__, cells, measure, draw, markdown, whole=True))
