"""The README's picture: frames of the teacher at 50 and at 4 guided steps and of the student at 4, same seeds.

python -m benchmarks.picture --run flc-out
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.common import RESULTS
from flc.models.folder import read_json

ROWS = ("teacher-many", "teacher-few-guided", "student")
FRAMES, SIDE, MARGIN, LINE = slice(0, 17, 8), 96, 12, 18


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        shown = [f.to_image().resize((SIDE, SIDE)) for f in container.decode(video=0)][FRAMES]
    return np.concatenate([np.asarray(image) for image in shown], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    metrics = read_json(args.run / "metrics.json")
    titles = {row["name"]: row["title"] for row in metrics["rows"]}
    videos = args.run / "evaluate" / "videos"
    indices = sorted(int(p.stem) for p in (videos / ROWS[0]).glob("*.mp4"))
    strips = {(name, i): frames(videos / name / f"{i}.mp4") for name in ROWS for i in indices}
    width = next(iter(strips.values())).shape[1]
    height = LINE + len(indices) * (SIDE + LINE + MARGIN)
    canvas = Image.new("RGB", (len(ROWS) * (width + MARGIN) + MARGIN, height), "white")
    pen = ImageDraw.Draw(canvas)
    for column, name in enumerate(ROWS):
        left = MARGIN + column * (width + MARGIN)
        pen.text((left, 3), titles[name], fill="black")
        for line, i in enumerate(indices):
            top = LINE + line * (SIDE + LINE + MARGIN)
            prompt = metrics["prompts"][i]
            given = ", first frame given" if prompt["given"] else ""
            pen.text((left, top), f"{prompt['caption']}{given}", fill=(90, 90, 90))
            canvas.paste(Image.fromarray(strips[name, i]), (left, top + LINE))
    canvas.save(RESULTS / "student.png", optimize=True)


if __name__ == "__main__":
    main()
